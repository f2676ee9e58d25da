//! What an answer of S3 means.

use quick_xml::Reader;
use quick_xml::escape::resolve_xml_entity;
use quick_xml::events::Event;

/// What an answer means, whatever was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// It was done.
    Good,
    /// There is no such object.
    Absent,
    /// A condition did not hold.
    Missed,
    /// Another write was going on at the same time; this one was not done.
    Met,
}

/// What an answer means that is none of these.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum No {
    /// Not now; why, in one line.
    Now(String),
    /// Not like this.
    Never(Error),
    /// Nothing that S3 would say.
    Sense,
}

/// An error in the store's own words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Error {
    /// Its name: `AccessDenied`.
    pub code: String,
    /// Its sentence.
    pub message: String,
    /// The region that the bucket is in, where the error is about that.
    pub region: Option<String>,
}

impl Error {
    /// All of it in one line.
    pub(super) fn line(&self, status: u16) -> String {
        let words = [self.code.as_str(), self.message.as_str()];
        let words: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
        let said: String = words.join(": ").chars().filter(|c| !c.is_control()).collect();
        let said = crate::units::clipped(&crate::redact::redact(&said), 300);
        if said.is_empty() { format!("status {status}") } else { format!("{said} (status {status})") }
    }
}

/// A part of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Page {
    /// The keys in it, each with its object's length in bytes.
    pub objects: Vec<(String, u64)>,
    /// Where the next part begins.
    pub next: Option<String>,
}

/// What an answer means.
pub(super) fn meaning(status: u16, body: &[u8]) -> Result<Said, No> {
    if (200..=299).contains(&status) {
        return Ok(Said::Good);
    }
    let error = error(body);
    let code = error.as_ref().map(|e| e.code.as_str());
    let coded = |code: &str| Error { code: code.into(), ..Error::default() };
    match (status, code) {
        (412, _) => Ok(Said::Missed),
        (404, Some("NoSuchKey")) => Ok(Said::Absent),
        (409, None | Some("ConditionalRequestConflict" | "OperationAborted")) => Ok(Said::Met),
        (408 | 429 | 500 | 502..=599, _) | (_, Some("SlowDown" | "RequestTimeout" | "InternalError")) => {
            Err(No::Now(error.unwrap_or_default().line(status)))
        }
        (_, Some(_)) => Err(No::Never(error.unwrap_or_default())),
        (501, None) => Err(No::Never(coded("NotImplemented"))),
        (301 | 307, None) => Err(No::Never(coded("PermanentRedirect"))),
        (401 | 403, None) => Err(No::Never(Error::default())),
        (_, None) => Err(No::Sense),
    }
}

fn error(body: &[u8]) -> Option<Error> {
    let found = leaves(body, "Error")?;
    let first = |name: &str| found.iter().find(|(n, _)| n == name).map(|(_, text)| text.clone());
    Some(Error {
        code: first("Code")?,
        message: first("Message").unwrap_or_default(),
        region: first("Region").filter(|region| !region.is_empty()),
    })
}

/// A part of a list; nothing where it is none.
pub(super) fn page(body: &[u8]) -> Option<Page> {
    let found = leaves(body, "ListBucketResult")?;
    let all = |name: &'static str| found.iter().filter(move |(n, _)| n == name).map(|(_, text)| text.clone());
    let more = all("IsTruncated").next().as_deref() == Some("true");
    let next = if more { Some(all("NextContinuationToken").next()?) } else { None };
    let mut objects: Vec<(String, u64)> = Vec::new();
    for (name, text) in &found {
        match (name.as_str(), objects.last_mut()) {
            ("Key", _) => objects.push((text.clone(), 0)),
            ("Size", Some(last)) => last.1 = text.trim().parse().ok()?,
            _ => {}
        }
    }
    Some(Page { objects, next })
}

/// The text of one element of a document with that root; nothing where there is none.
pub(super) fn element(body: &[u8], root: &str, name: &str) -> Option<String> {
    leaves(body, root)?.into_iter().find(|(n, _)| n == name).map(|(_, text)| text)
}

/// The innermost elements of a document with that root, with their texts.
fn leaves(xml: &[u8], root: &str) -> Option<Vec<(String, String)>> {
    let mut reader = Reader::from_reader(xml);
    let mut found = Vec::new();
    let mut open: Vec<String> = Vec::new();
    let mut text = String::new();
    loop {
        match reader.read_event().ok()? {
            Event::Start(tag) => {
                let name = String::from_utf8_lossy(tag.local_name().as_ref()).into_owned();
                if open.is_empty() && name != root {
                    return None;
                }
                open.push(name);
                text.clear();
            }
            Event::Text(part) => text.push_str(&part.decode().ok()?),
            Event::CData(part) => text.push_str(&part.decode().ok()?),
            Event::GeneralRef(name) => match name.resolve_char_ref().ok()? {
                Some(letter) => text.push(letter),
                None => text.push_str(resolve_xml_entity(&name.decode().ok()?)?),
            },
            Event::End(_) => {
                found.push((open.pop()?, std::mem::take(&mut text)));
                if open.is_empty() {
                    return Some(found);
                }
            }
            Event::Eof => return None,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error_of(code: &str) -> Vec<u8> {
        format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>no &lt;way&gt;</Message></Error>")
            .into_bytes()
    }

    #[test]
    fn answers_mean_what_the_store_says() {
        assert_eq!(meaning(200, b""), Ok(Said::Good));
        assert_eq!(meaning(412, b"whatever"), Ok(Said::Missed));
        assert_eq!(meaning(409, &error_of("ConditionalRequestConflict")), Ok(Said::Met));
        assert_eq!(meaning(404, &error_of("NoSuchKey")), Ok(Said::Absent));
        assert_eq!(meaning(404, b"<html>not found</html>"), Err(No::Sense), "a web server is no store");
        assert_eq!(
            meaning(503, &error_of("SlowDown")),
            Err(No::Now("SlowDown: no <way> (status 503)".into()))
        );
        assert_eq!(meaning(502, b"<html>bad gateway"), Err(No::Now("status 502".into())));
        assert_eq!(meaning(429, b""), Err(No::Now("status 429".into())));
        for (status, code) in [(403, "AccessDenied"), (404, "NoSuchBucket"), (400, "ExpiredToken")] {
            let Err(No::Never(error)) = meaning(status, &error_of(code)) else { panic!("{code}") };
            assert_eq!(error.code, code);
        }
        assert!(matches!(meaning(501, b""), Err(No::Never(e)) if e.code == "NotImplemented"));
        assert_eq!(meaning(302, b"<html>sign in</html>"), Err(No::Sense));
    }

    #[test]
    fn a_list_is_read_part_by_part() {
        let first = b"<ListBucketResult xmlns=\"http://s3\"><Name>b</Name><Prefix>p/</Prefix><IsTruncated>true</IsTruncated>\
            <Contents><Key>p/a&amp;b&#x41;</Key><Size>1</Size></Contents><Contents><Key>p/c</Key></Contents>\
            <NextContinuationToken>tok</NextContinuationToken></ListBucketResult>";
        let page_1 = page(first).unwrap();
        let objects = vec![("p/a&bA".to_owned(), 1), ("p/c".into(), 0)];
        assert_eq!((page_1.objects, page_1.next), (objects, Some("tok".into())));
        let last = page(b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>").unwrap();
        assert_eq!((last.objects.len(), last.next), (0, None));
        assert_eq!(page(b"<html><body>hello</body></html>"), None);
        assert_eq!(page(b"<ListBucketResult><Contents><Key>cut"), None);
        let nowhere = b"<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>";
        assert_eq!(page(nowhere), None, "more is said to follow, and not where");
    }
}
