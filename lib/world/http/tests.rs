use super::*;

fn hop(url: &str, method: &str) -> Hop<'static> {
    let headers = [("authorization", "Bearer a"), ("x-other", "b"), ("accept", "c"), ("content-type", "d")];
    let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let request = Request { method: method.into(), headers, ..Request::get(url) };
    Hop::of(&request, Some(b"body"), None).unwrap()
}

#[test]
fn redirects_are_followed_as_the_rfc_says() {
    for (status, method, location, target, asks) in [
        (302, "POST", "/x", "http://shop/x", "GET"),
        (303, "PUT", "x", "http://shop/a/x", "GET"),
        (303, "HEAD", "x", "http://shop/a/x", "HEAD"),
        (307, "POST", "../x", "http://shop/x", "POST"),
        (308, "POST", "?q=1", "http://shop/a/b?q=1", "POST"),
        (301, "GET", "//other/x", "http://other/x", "GET"),
        (301, "GET", "HTTPS://Shop:8443/x", "https://shop:8443/x", "GET"),
    ] {
        let next = hop("http://shop/a/b", method).redirected(status, location).unwrap();
        assert_eq!((&*next.place.absolute(), next.method.as_str()), (target, asks), "{status} {location}");
        assert_eq!(next.body.is_some(), asks == method, "{location}");
    }
    for location in ["file:///etc/passwd", "javascript:alert(1)", "http://", "http+unix://%2Frun%2Fx/"] {
        assert!(hop("http://shop/", "GET").redirected(302, location).is_err(), "{location}");
    }
}

#[test]
fn another_origin_gets_no_secret() {
    let names = |hop: &Hop<'_>| hop.headers.iter().map(|(name, _)| name.to_string()).collect::<Vec<_>>();
    let same = hop("http://shop/a", "POST").redirected(307, "/b").unwrap();
    assert_eq!(names(&same), ["authorization", "x-other", "accept", "content-type"]);
    for other in ["http://shop:81/", "https://shop/", "http://shop.evil/", "//evil/"] {
        let next = hop("http://shop/a", "POST").redirected(307, other).unwrap();
        assert_eq!(names(&next), ["accept", "content-type"], "{other}");
        assert!(next.own.is_none());
    }
    let with_user = Hop::of(&Request::get("http://me:p%40ss@shop/"), None, None).unwrap();
    assert_eq!(with_user.headers[0].1, "Basic bWU6cEBzcw==");
    assert!(names(&with_user.redirected(302, "http://other/").unwrap()).is_empty());
}
