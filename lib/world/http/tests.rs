use super::*;

#[test]
fn a_user_in_an_address_becomes_a_header() {
    let with_user = Hop::of(&Request::get("http://me:p%40ss@shop/"), None, None).unwrap();
    assert_eq!(with_user.headers[0].1, "Basic bWU6cEBzcw==");
}
