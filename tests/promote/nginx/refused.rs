//! What cannot be split, or would be overwritten, is refused before the deploy hook.

use std::net::ToSocketAddrs;

use super::*;

/// A plan in front of a real nginx whose deploy hook leaves a trace.
struct Asked {
    behind: Behind,
    blue: Side,
    green: Side,
}

const UPSTREAM: &str = "upstream shop {\n    server BLUE;\n}\n";
const NAMED: &str = "upstream shop_blue { server BLUE; }\nupstream shop_green { server GREEN; }\nmap \"\" $trapkey_upstream { default shop_blue; }\n";

impl Asked {
    fn new(upstreams: &str, pass: &str) -> Self {
        let (blue, green) = (Side::start("1.0"), Side::start("1.1"));
        let upstreams = upstreams
            .replace("BLUE", &format!("127.0.0.1:{}", blue.port))
            .replace("GREEN", &format!("127.0.0.1:{}", green.port));
        Self { behind: Behind::new(&upstreams, pass), blue, green }
    }

    /// Runs the release, with `more` among the router's settings.
    fn run(&self, more: &str) -> Ended {
        let [blue, green] = [&self.blue, &self.green].map(|side| format!("\"127.0.0.1:{}\"", side.port));
        self.run_with(&blue, &green, more)
    }

    fn run_with(&self, blue: &str, green: &str, more: &str) -> Ended {
        let block = self.behind.nginx.block(blue, green, more);
        let hooks = "  hooks: {deploy: [touch, deployed]}\n";
        let text = plan(&block, &self.blue, &self.green, "[{weight: 100%, bake: 300ms}]", hooks);
        std::fs::write(self.behind.folder.path().join("release.yaml"), text).unwrap();
        call("promote", self.behind.folder.path(), &["run"])
    }

    /// It is refused with these words, and nothing was touched.
    fn refuses(&self, more: &str, words: &[&str]) {
        let held = self.behind.nginx.held();
        let ended = self.run(more);
        assert_eq!(ended.code, 2, "{more}: {}", ended.stderr);
        for word in words {
            assert!(ended.stderr.contains(word), "{more}: `{word}` in\n{}", ended.stderr);
        }
        self.untouched(&held);
    }

    fn untouched(&self, held: &str) {
        assert!(!self.behind.folder.path().join("deployed").exists(), "before the deploy hook");
        assert_eq!(self.behind.nginx.held(), held);
        assert_eq!(self.green.served(), 0);
    }

    fn passes(&self, more: &str) {
        let ended = self.run(more);
        assert_eq!(ended.code, 0, "{more}: {}", ended.stderr);
        assert!(self.behind.folder.path().join("deployed").exists());
    }

    fn configure(&mut self, from: &str, to: &str) {
        self.behind.configure(|text| text.replace(from, to));
    }
}

#[test]
fn a_balancing_method_that_keeps_no_share_is_refused_in_the_plan() {
    let asked = Asked::new(UPSTREAM, "shop");
    for method in [
        "least_conn;",
        "ip_hash;",
        "hash $request_uri consistent;",
        "sticky cookie srv_id expires=1h;",
        "least_time header;",
        "random two;",
        "random two least_conn;",
    ] {
        let name = method.split([' ', ';']).next().unwrap();
        asked.refuses(
            &format!(", lines: ['{method}']"),
            &[&format!("`{name}"), "`with.lines`", "apart: true"],
        );
    }
    asked.refuses(", lines: ['keepalive 4;', 'random;']", &["put `keepalive` last"]);
    asked.refuses(", lines: ['keepalive 4']", &["is no whole directive"]);
    asked.refuses(", lines: ['} upstream x { server 127.0.0.1:1;']", &["is no whole directive"]);
    asked.refuses(", lines: ['server 127.0.0.1:1;']", &["of neither side"]);
    for (server, why) in [
        ("127.0.0.1:1 backup", "`with.lines`"),
        ("127.0.0.1:1 weight=0", "a weight is a whole number"),
        ("127.0.0.1:1; server 127.0.0.1:2", "does not begin with the address"),
        ("127.0.0.1:1 down", "is not taken"),
    ] {
        let held = asked.behind.nginx.held();
        let ended = asked.run_with("\"127.0.0.1:9\"", &format!("['{server}']"), "");
        assert_eq!(ended.code, 2, "{}", ended.stderr);
        assert!(ended.stderr.contains(why), "{}", ended.stderr);
        asked.untouched(&held);
    }
    asked.passes(", lines: ['random;', 'zone shop 64k;', 'keepalive 4;']");
}

#[test]
fn a_balancing_method_that_keeps_no_share_is_refused_in_the_file_however_it_is_written() {
    for (method, name) in [
        ("    least_conn;\n", "`least_conn;`"),
        (" # not least_conn\n ip_hash\n ;", "`ip_hash;`"),
        ("    \"hash\" '$request_uri' # by address\n consistent;", "`hash $request_uri consistent;`"),
        ("random two least_conn;", "`random two least_conn;`"),
    ] {
        let asked = Asked::new(&format!("upstream shop {{\n{method}\n    server BLUE;\n}}\n"), "shop");
        asked.refuses("", &[name, "split.conf:", "apart: true"]);
    }
    // Words in comments and names are no directives.
    let asked = Asked::new(
        "upstream shop { # least_conn;\n    server BLUE; #ip_hash;\n zone ip_hash 64k; }\n",
        "shop",
    );
    asked.passes(", lines: ['zone ip_hash 64k;']");
    // Where each side has its own upstream, they choose among the servers of one side.
    let asked = Asked::new(&NAMED.replace(" }\nup", " least_conn; }\nup"), "$trapkey_upstream");
    asked.passes(", apart: true, lines: ['least_conn;']");
}

#[test]
fn what_the_next_shift_would_overwrite_is_refused() {
    let asked = Asked::new("upstream shop {\n    server BLUE;\n    keepalive 8;\n}\n", "shop");
    asked.refuses("", &["split.conf:3", "`keepalive 8;`", "`with.lines`"]);
    let asked = Asked::new("upstream shop {\n    server BLUE max_fails=5;\n}\n", "shop");
    asked.refuses("", &["split.conf:2", "`with.blue`"]);
    let asked = Asked::new("upstream other { server BLUE; }\nupstream shop {\n    server BLUE;\n}\n", "shop");
    asked.refuses("", &["split.conf:1", "`upstream other { … }`", "one of its own"]);
}

#[test]
fn an_upstream_that_nothing_passes_to_or_that_is_elsewhere_is_refused() {
    // What users meet is another upstream, whatever the name in comments and other words.
    let mut asked = Asked::new(UPSTREAM, "shop");
    let direct = format!("proxy_pass http://127.0.0.1:{}; # proxy_pass http://shop;", asked.blue.port);
    asked.configure(
        "proxy_pass http://shop;",
        &format!("add_header x-a \"proxy_pass http://shop;\";\n {direct}\n"),
    );
    asked.refuses("", &["passes requests to the upstream `shop`", "proxy_pass http://shop;"]);
    // A variable that names it, by a map or a set, in any file.
    asked.configure("access_log off;", "access_log off; map $host $where { default 'shop'; }");
    asked.configure(&direct, "\n proxy_pass\n \"http://${where}\" ; ");
    asked.passes("");

    // The include file is a copy that is not included.
    let asked = Asked::new(UPSTREAM, "shop");
    let copy = asked.behind.folder.path().join("copy.conf");
    std::fs::rename(&asked.behind.nginx.include, &copy).unwrap();
    let mut asked = asked;
    asked.configure("split.conf;", "copy.conf;");
    std::fs::write(
        &asked.behind.nginx.include,
        format!("# another one\n{}", std::fs::read_to_string(&copy).unwrap()),
    )
    .unwrap();
    asked.refuses("", &["copy.conf:1", "the upstream `shop` is defined here"]);
    // And under a pattern, beside files that it does not name.
    asked.configure("copy.conf;", "spli[r-u].c?n*;");
    asked.passes("");
}

#[test]
fn an_upstream_that_no_variable_of_trapkey_picks_is_refused_where_the_sides_are_apart() {
    let asked = Asked::new(NAMED, "shop_blue");
    asked.refuses(", apart: true", &["takes its upstream from `$trapkey_upstream`"]);
    let asked = Asked::new(UPSTREAM, "shop");
    asked.refuses(
        ", apart: true",
        &["defines no `$trapkey_upstream`", "proxy_pass http://$trapkey_upstream;"],
    );
    let asked = Asked::new(NAMED, "$trapkey_upstream");
    asked.refuses("", &["defines no `upstream shop`", "proxy_pass http://shop;"]);
}

/// A cache of nginx's, and a location that uses it.
fn cached(asked: &mut Asked) {
    let at = asked.behind.folder.path().display().to_string();
    asked.configure(
        "access_log off;",
        &format!("access_log off; proxy_cache_path {at}/cache keys_zone=shop:1m; proxy_cache_valid 200 1h;"),
    );
}

#[test]
fn a_cache_in_front_of_both_sides_is_refused_unless_it_is_allowed_or_off() {
    let mut asked = Asked::new(UPSTREAM, "shop");
    cached(&mut asked);
    asked.configure("location / {", "location / { proxy_cache shop;");
    asked.refuses("", &["nginx.conf:", "a cache answers requests in front of `shop`", "cache: allowed"]);
    // Inherited from around it.
    asked.configure("location / { proxy_cache shop;", "location / {");
    asked.configure("proxy_cache_valid", "proxy_cache shop; proxy_cache_valid");
    asked.refuses("", &["a cache answers requests"]);
    // A cache of another family does not stand in front of it, and one that is off does not either.
    asked.configure("location / {", "location /other { proxy_cache shop; } location / { proxy_cache off;");
    asked.passes("");
}

#[test]
fn a_cache_that_the_operator_allows_is_no_reason_to_refuse() {
    let mut asked = Asked::new(UPSTREAM, "shop");
    cached(&mut asked);
    asked.configure(
        "location / {",
        "location / { proxy_cache shop; proxy_cache_key \"$host$request_uri$msec$connection\";",
    );
    asked.passes(", cache: allowed");
}

#[test]
fn a_cache_whose_key_names_the_side_keeps_an_answer_for_each() {
    let mut asked = Asked::new(NAMED, "$trapkey_upstream");
    cached(&mut asked);
    asked.configure("location / {", "location / { proxy_cache shop; proxy_cache_key $host$request_uri;");
    asked.refuses(", apart: true", &["a cache answers requests"]);
    // nginx's own key has `$proxy_host`, and that is the name of the upstream.
    asked.configure("proxy_cache_key $host$request_uri;", "");
    asked.passes(", apart: true");
    let served = asked.blue.served() + asked.green.served();
    let block = asked.behind.nginx.block(
        &format!("\"127.0.0.1:{}\"", asked.blue.port),
        &format!("\"127.0.0.1:{}\"", asked.green.port),
        ", apart: true",
    );
    asked.behind.set(asked.behind.open(&block).as_mut(), forward(0.5));
    let met = asked.behind.met(200);
    assert!(met["1.0"] > 60 && met["1.1"] > 60, "{met:?}");
    let asked_for = asked.blue.served() + asked.green.served() - served;
    assert!(asked_for < 20, "the cache answered: {asked_for} of 200 were passed on");
}

#[test]
fn a_name_with_several_addresses_is_refused_where_weights_are_the_split() {
    let asked = Asked::new(UPSTREAM, "shop");
    // As every machine has it: 127.0.0.1 and ::1.
    let addresses: std::collections::BTreeSet<_> = "localhost:80".to_socket_addrs().unwrap().collect();
    let ended = asked.run_with(
        &format!("\"127.0.0.1:{}\"", asked.blue.port),
        &format!("\"localhost:{}\"", asked.green.port),
        "",
    );
    if addresses.len() > 1 {
        assert_eq!(ended.code, 2, "{}", ended.stderr);
        assert!(ended.stderr.contains("is several to nginx"), "{}", ended.stderr);
    } else {
        assert_eq!(ended.code, 0, "{}", ended.stderr);
    }
}

#[test]
fn a_test_command_that_cannot_print_is_no_reason_to_refuse_and_is_told() {
    let asked = Asked::new(UPSTREAM, "shop");
    let script = asked.behind.folder.path().join("test-nginx");
    let config = asked.behind.nginx.config.display();
    std::fs::write(&script, format!("#!/bin/sh\nexec nginx -t -c {config}\n")).unwrap();
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let block = asked.behind.nginx.block("\"127.0.0.1:1\"", "\"127.0.0.1:2\"", "");
    let block =
        block.replace(&format!("test: [nginx, -t, -c, {config}]"), &format!("test: [{}]", script.display()));
    let mut router = asked.behind.open(&block);
    router.check().unwrap();
    let told = router.read().unwrap().raw.to_string();
    assert!(told.contains("has no `-t`"), "{told}");
}

#[test]
fn two_services_behind_one_nginx_need_variables_of_their_own() {
    let mut asked = Asked::new(UPSTREAM, "shop");
    let cart = asked.behind.folder.path().join("cart.conf");
    let of_cart = |name: &str| {
        format!(
            "upstream cart {{ server 127.0.0.1:1; }}\nmap \"\" ${name}_split {{ default \"trapkey cart 0.5\"; }}\n"
        )
    };
    std::fs::write(&cart, of_cart("trapkey")).unwrap();
    asked.configure("access_log off;", &format!("access_log off; include {};", cart.display()));
    asked.configure("location / {", "location /cart { proxy_pass http://cart; } location / {");
    asked.refuses(
        "",
        &["cart.conf:2", "the variable `$trapkey_split` is defined here too", "`with.variables`"],
    );
    // Those of the other service have another name; its split is nobody's business here.
    std::fs::write(&cart, of_cart("cart")).unwrap();
    asked.behind.nginx.restart();
    asked.passes("");
    let held = asked.behind.nginx.held();
    assert!(held.contains("$trapkey_split") && asked.behind.nginx.names_only(asked.green.port), "{held}");
    // And so may those of this one.
    let renamed = held.replace("$trapkey_split", "$shop_split");
    std::fs::write(&asked.behind.nginx.include, renamed).unwrap();
    asked.configure("200 $trapkey_split", "200 $shop_split");
    let block = asked.behind.nginx.block(
        &format!("\"127.0.0.1:{}\"", asked.green.port),
        &format!("\"127.0.0.1:{}\"", asked.blue.port),
        ", variables: shop",
    );
    let mut router = asked.behind.open(&block);
    router.check().unwrap();
    asked.behind.set(router.as_mut(), forward(0.5));
    assert!(same_share(router.read().unwrap().green, 0.5));
    assert!(asked.behind.nginx.held().contains("map \"\" $shop_split"), "{}", asked.behind.nginx.held());
    for name in ["Shop", "9shop", "shop;", "", "$shop"] {
        let ended = asked.run(&format!(", variables: '{name}'"));
        assert!(
            ended.code == 2 && ended.stderr.contains("beginning of a variable's name"),
            "{}",
            ended.stderr
        );
    }
}
