use super::*;
use crate::fault::Exit;

fn access(more: &[(&str, &str)]) -> Result<Access, Fault> {
    let always = [("AWS_ACCESS_KEY_ID", "AKIA"), ("AWS_SECRET_ACCESS_KEY", "a-secret-of-this-test")];
    Access::read(|name| {
        more.iter().chain(&always).find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned())
    })
}

#[test]
fn a_bucket_is_addressed_as_its_store_wants_it() {
    type Case = (&'static [(&'static str, &'static str)], &'static str, &'static str);
    let cases: &[Case] = &[
        (&[("AWS_REGION", "eu-central-1")], "state", "https://state.s3.eu-central-1.amazonaws.com/"),
        (&[("AWS_REGION", "eu-central-1")], "a.state", "https://s3.eu-central-1.amazonaws.com/a.state/"),
        (&[("AWS_DEFAULT_REGION", "cn-north-1")], "state", "https://state.s3.cn-north-1.amazonaws.com.cn/"),
        (&[("AWS_ENDPOINT_URL", "http://127.0.0.1:9000")], "state", "http://127.0.0.1:9000/state/"),
        (
            &[("AWS_ENDPOINT_URL_S3", "https://oss.example"), ("TRAPKEY_S3_STYLE", "virtual")],
            "state",
            "https://state.oss.example/",
        ),
    ];
    for (variables, name, url) in cases {
        assert_eq!(access(variables).unwrap().bucket(name).unwrap().at.base_url().as_str(), *url);
    }
}

#[test]
fn what_is_missing_or_wrong_is_named() {
    assert!(access(&[]).unwrap_err().what.contains("AWS_REGION"));
    assert!(Access::read(|_| None).unwrap_err().what.contains("AWS_ACCESS_KEY_ID"));
    let access = access(&[("AWS_ENDPOINT_URL", "ftp://u:pass-word@x")]).unwrap();
    let wrong = access.bucket("state").unwrap_err();
    assert_eq!(wrong.exit, Exit::Usage);
    assert!(!wrong.to_string().contains("pass-word"), "{wrong}");
    for name in ["", "ab", "Big", "a/b", "-ab", "ab-", "a..b", "a_b"] {
        assert!(access.bucket(name).unwrap_err().what.contains("not the name of a bucket"), "{name}");
    }
}

#[test]
fn a_store_that_hangs_is_given_up_in_time_and_then_asked_briefly() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", silent.local_addr().unwrap());
    let bucket = access(&[("AWS_ENDPOINT_URL", &address)]).unwrap().bucket("state").unwrap();
    bucket.hurry(Duration::from_secs(1));
    silent.set_nonblocking(true).unwrap();
    let tries = || std::iter::from_fn(|| silent.accept().ok()).count();
    let fault = bucket.get("key").unwrap_err();
    assert!(fault.what.contains("cannot be reached") && !fault.to_string().contains("X-Amz"), "{fault}");
    assert!(tries() >= 1);
    // From then on it is tried once.
    assert!(bucket.put("key", b"x", &Condition::New).is_err());
    assert_eq!(tries(), 1);
}
