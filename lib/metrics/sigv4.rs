//! Signatures of requests to AWS, version 4, for a POST of a whole body to `/`.
//!
//! Source: <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html>.
//! The crate of the AWS SDK for this brings nineteen others with it.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use ring::{digest, hmac};

/// Who asks.
#[derive(Clone)]
pub(super) struct Credentials {
    /// The name of the key.
    pub key: String,
    /// Its secret.
    pub secret: String,
    /// What belongs to a key that is lent for a while.
    pub token: Option<String>,
}

/// Which service, and where.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scope<'a> {
    /// `eu-central-1`.
    pub region: &'a str,
    /// `monitoring`.
    pub service: &'a str,
}

/// The headers of a signed POST to `/`: those that are given (names in lowercase, `host` among them),
/// the date, the token where there is one, and the signature of all of them and of the body.
pub(super) fn sign(
    credentials: &Credentials,
    scope: Scope<'_>,
    headers: &[(&str, &str)],
    body: &[u8],
    at: Timestamp,
) -> Vec<(String, String)> {
    let date = at.to_zoned(TimeZone::UTC).strftime("%Y%m%dT%H%M%SZ").to_string();
    let day = date.get(..8).unwrap_or_default();
    let mut all: Vec<(String, String)> =
        headers.iter().map(|(name, value)| ((*name).to_owned(), value.trim().to_owned())).collect();
    all.push(("x-amz-date".into(), date.clone()));
    all.extend(credentials.token.iter().map(|token| ("x-amz-security-token".to_owned(), token.clone())));
    all.sort();

    let names: Vec<&str> = all.iter().map(|(name, _)| name.as_str()).collect();
    let names = names.join(";");
    let lines: String = all.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
    let request = format!("POST\n/\n\n{lines}\n{names}\n{}", sha256(body));
    let within = format!("{day}/{}/{}/aws4_request", scope.region, scope.service);
    let text = format!("AWS4-HMAC-SHA256\n{date}\n{within}\n{}", sha256(request.as_bytes()));

    let mut key = hmac_of(format!("AWS4{}", credentials.secret).as_bytes(), day);
    for part in [scope.region, scope.service, "aws4_request"] {
        key = hmac_of(key.as_ref(), part);
    }
    let signature = hex(hmac_of(key.as_ref(), &text).as_ref());
    let line = format!(
        "AWS4-HMAC-SHA256 Credential={}/{within}, SignedHeaders={names}, Signature={signature}",
        credentials.key
    );
    all.push(("authorization".into(), line));
    all
}

fn hmac_of(key: &[u8], text: &str) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes())
}

fn sha256(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWsKWHGBuFqwAeMicRXmxfpSPfIeoIYRqTflfKD8YUuwthAx7mSEI/qkPpKPi/kMcGdQrmGdeehM4IC1NtBmUpp2wUE8phUZampKsburEDy0KPkyQDYwT7WZ0wq5VSXDvp75YU9HFvlRd8Tx6q6fE8YQcHNVXAkiY9q6d+xo0rKwT38xVqr7ZD0u0iPPkUL64lIZbqBAz+scqKmlzm8FDrypNC9Yjc8fPOLn9FX9KSYvKTr4rvx3iSIlTJabIQwj2ICCR/oLxBA==";

    fn authorization(token: Option<&str>, headers: &[(&str, &str)], body: &str) -> String {
        let credentials = Credentials {
            key: "AKIDEXAMPLE".into(),
            secret: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".into(),
            token: token.map(str::to_owned),
        };
        let scope = Scope { region: "us-east-1", service: "service" };
        let at = "2015-08-30T12:36:00Z".parse().unwrap();
        let mut all = vec![("host", "example.amazonaws.com")];
        all.extend(headers);
        let signed = sign(&credentials, scope, &all, body.as_bytes(), at);
        signed.into_iter().find(|(name, _)| name == "authorization").unwrap().1
    }

    /// The POST requests to `/` of the test suite that AWS publishes (aws-sig-v4-test-suite).
    #[test]
    fn signs_as_the_published_vectors_do() {
        let form = "application/x-www-form-urlencoded";
        let vectors = [
            (
                authorization(None, &[], ""),
                "host;x-amz-date",
                "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b",
            ),
            (
                authorization(None, &[("my-header1", "value1")], ""),
                "host;my-header1;x-amz-date",
                "c5410059b04c1ee005303aed430f6e6645f61f4dc9e1461ec8f8916fdf18852c",
            ),
            (
                authorization(None, &[("my-header1", "VALUE1")], ""),
                "host;my-header1;x-amz-date",
                "cdbc9802e29d2942e5e10b5bccfdd67c5f22c7c4e8ae67b53629efa58b974b7d",
            ),
            (
                authorization(None, &[("content-type", form)], "Param1=value1"),
                "content-type;host;x-amz-date",
                "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a",
            ),
            (
                authorization(Some(TOKEN), &[], ""),
                "host;x-amz-date;x-amz-security-token",
                "85d96828115b5dc0cfc3bd16ad9e210dd772bbebba041836c64533a82be05ead",
            ),
        ];
        for (line, names, signature) in vectors {
            let expected = format!(
                "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, SignedHeaders={names}, Signature={signature}"
            );
            assert_eq!(line, expected);
        }
    }

    /// As botocore 1.43 signs the same request.
    #[test]
    fn signs_a_request_to_cloudwatch_as_the_sdk_does() {
        let credentials = Credentials {
            key: "AKIDEXAMPLE".into(),
            secret: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".into(),
            token: Some("a-session-token".into()),
        };
        let headers = [
            ("host", "127.0.0.1:4566"),
            ("content-type", "application/x-amz-json-1.0"),
            ("x-amz-target", "GraniteServiceVersion20100801.GetMetricData"),
        ];
        let scope = Scope { region: "eu-central-1", service: "monitoring" };
        let at = "2026-01-02T03:04:05Z".parse().unwrap();
        let signed = sign(&credentials, scope, &headers, br#"{"a":1}"#, at);
        let line = &signed.iter().find(|(name, _)| name == "authorization").unwrap().1;
        assert_eq!(
            line,
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20260102/eu-central-1/monitoring/aws4_request, SignedHeaders=content-type;host;x-amz-date;x-amz-security-token;x-amz-target, Signature=2242cba5790087e4fc735577d213a9f7cd2a9acd8c65ff99d6565790b8cc685f"
        );
        assert!(signed.iter().any(|(name, value)| name == "x-amz-date" && value == "20260102T030405Z"));
    }
}
