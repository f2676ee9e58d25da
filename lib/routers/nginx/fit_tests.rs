use super::*;

const SHOP: &str = "upstream shop { server 10.0.0.11:8080; }";

/// What `nginx -T` prints of files.
fn printed(files: &[(&str, &str)]) -> String {
    let file = |(path, text): &(&str, &str)| format!("# configuration file {path}:\n{text}\n");
    format!(
        "nginx: the configuration file /etc/nginx/nginx.conf syntax is ok\n{}",
        files.iter().map(file).collect::<String>()
    )
}

fn asked(files: &[(&str, &str)], passes_to: &str, cache_allowed: bool) -> Option<Misfit> {
    let upstreams = ["shop", "shop_blue", "shop_green"].map(str::to_owned);
    let question = Question {
        include: "/etc/nginx/trapkey/shop.conf",
        text: SHOP,
        upstreams: &upstreams,
        passes_to,
        variables: &["$trapkey_split".to_owned()],
        cache_allowed,
    };
    Configuration::parse(&printed(files)).unwrap().misfit(&question)
}

/// The include file as part of a main file with this in `http`.
fn within(http: &str) -> Option<Misfit> {
    let main = format!("http {{ include trapkey/*.conf; {http} }}");
    asked(&[("/etc/nginx/nginx.conf", &main), ("/etc/nginx/trapkey/shop.conf", SHOP)], "shop", false)
}

fn why(misfit: Option<Misfit>) -> String {
    misfit.map_or_else(String::new, |misfit| misfit.why)
}

#[test]
fn every_way_to_pass_to_the_upstream_counts() {
    for server in [
        "location / { proxy_pass http://shop; }",
        "location / { proxy_pass https://SHOP/path$uri; }",
        "location / { if ($a) { proxy_pass http://shop; } }",
        "location / { grpc_pass grpc://shop; }",
        "location / { grpc_pass shop; }",
        "location ~ \\.php$ { fastcgi_pass shop; }",
        "location / { uwsgi_pass suwsgi://shop; }",
        "location / { scgi_pass shop; }",
        "location / { location /a { proxy_pass \"http://shop\"; } }",
        "location / { set $to shop; proxy_pass http://$to; }",
        "location / { set $to http://shop/a; proxy_pass $to; }",
        "location / { set $a shop; set $b ${a}; proxy_pass http://${b}/x; }",
        "location / { limit_except GET { proxy_pass http://shop; } }",
        // What these hold, nobody can tell from here.
        "location / { proxy_pass http://$host; }",
        "location ~ ^/(.*) { proxy_pass http://$1; }",
        "location / { set_by_lua_block $to { return '}' } proxy_pass http://$to; }",
    ] {
        assert_eq!(within(&format!("server {{ {server} }}")), None, "{server}");
    }
    for mapped in [
        "map $host $to { default other; ~^a shop; }",
        "split_clients $a $to { 5% shop; * other; }",
        "geo $to { default shop; }",
    ] {
        assert_eq!(
            within(&format!("{mapped} server {{ location / {{ proxy_pass http://$to; }} }}")),
            None,
            "{mapped}"
        );
    }
    for server in [
        "location / { proxy_pass http://shopping; }",
        "location / { proxy_pass http://other/shop; }",
        "location / { # proxy_pass http://shop;\n }",
        "location / { add_header x \"; proxy_pass http://shop;\"; }",
        "location / { set $to other; proxy_pass http://$to; }",
        "set $unused shop;",
        "",
    ] {
        let told = why(within(&format!("server {{ {server} }}")));
        assert!(told.contains("passes requests to the upstream `shop`"), "{server}: {told}");
    }
    // `stream` has upstreams of its own.
    let main = "http { include trapkey/shop.conf; } stream { upstream shop { server a:1; } server { proxy_pass shop; } }";
    let told =
        why(asked(&[("/etc/nginx/nginx.conf", main), ("/etc/nginx/trapkey/shop.conf", SHOP)], "shop", false));
    assert!(told.contains("passes requests to"), "{told}");
}

#[test]
fn includes_are_followed_where_they_are() {
    let files = |pattern: &str| {
        let main =
            format!("user www; include modules/*.conf; http {{ include {pattern}; include sites/*; }}");
        asked(
            &[
                ("/etc/nginx/nginx.conf", &main),
                ("/etc/nginx/modules/50-a.conf", "load_module a.so;"),
                ("/etc/nginx/trapkey/shop.conf", SHOP),
                ("/etc/nginx/sites/shop", "server { include /etc/nginx/snippets/pass.conf; }"),
                ("/etc/nginx/snippets/pass.conf", "location / { proxy_pass http://shop; }"),
            ],
            "shop",
            false,
        )
    };
    for pattern in [
        "trapkey/shop.conf",
        "/etc/nginx/trapkey/*.conf",
        "trapkey/*",
        "t*/s??p.conf",
        "trapkey/[a-z]hop.conf",
        "trapkey/[!a]hop.conf",
        "*/*",
    ] {
        assert_eq!(files(pattern), None, "{pattern}");
    }
    for pattern in ["trapkey/*.cnf", "trapkey*", "*.conf", "trapkey/[a-c]hop.conf", "trapkey/s?p.conf"] {
        assert!(why(files(pattern)).contains("does not include this file"), "{pattern}");
    }
    // A circle, which nginx refuses, ends.
    let circle =
        [("/etc/nginx/nginx.conf", "http { include a.conf; }"), ("/etc/nginx/a.conf", "include a.conf;")];
    assert!(why(asked(&circle, "shop", false)).contains("does not include"));
}

#[test]
fn an_upstream_in_another_file_is_told_with_its_line() {
    let main = "http { include trapkey/shop.conf;\ninclude conf.d/*.conf; }";
    let other = "# shop\nupstream other { server a; }\nupstream\n  SHOP { server a; }";
    let misfit =
        asked(&[("/etc/nginx/nginx.conf", main), ("/etc/nginx/conf.d/shop.conf", other)], "shop", false)
            .unwrap();
    assert_eq!(misfit.place.as_deref(), Some("/etc/nginx/conf.d/shop.conf:3"));
    assert!(misfit.why.contains("is defined here"), "{}", misfit.why);
}

#[test]
fn a_variable_that_another_service_defines_too_is_told() {
    let other = "map \"\" $shop_split { default a; }\nmap \"\" $trapkey_split { default a; }";
    let main = "http { include trapkey/*.conf; server { location / { proxy_pass http://shop; } } }";
    let files = [
        ("/etc/nginx/nginx.conf", main),
        ("/etc/nginx/trapkey/cart.conf", other),
        ("/etc/nginx/trapkey/shop.conf", SHOP),
    ];
    let misfit = asked(&files, "shop", false).unwrap();
    assert_eq!(misfit.place.as_deref(), Some("/etc/nginx/trapkey/cart.conf:2"));
    assert!(misfit.help.contains("with.variables"), "{}", misfit.help);
}

#[test]
fn a_cache_counts_where_it_is_in_force() {
    let cached = |http: &str| within(http).and_then(|misfit| misfit.place);
    let location = "location / { proxy_pass http://shop; }";
    let here = Some("/etc/nginx/nginx.conf:1".to_owned());
    for http in [
        format!("proxy_cache zone; server {{ {location} }}"),
        format!("server {{ {location} proxy_cache zone; }}"),
        "server { location / { proxy_pass http://shop; proxy_cache $zone; } }".into(),
        "proxy_cache off; server { location / { proxy_cache zone; if ($a) { proxy_pass http://shop; } } }"
            .into(),
        "fastcgi_cache zone; server { location / { fastcgi_pass shop; } }".into(),
        "uwsgi_cache zone; server { location / { uwsgi_pass shop; } }".into(),
        "scgi_cache zone; server { location / { scgi_pass shop; } }".into(),
        "map $host $to { default shop; } proxy_cache zone; server { location / { proxy_pass http://$to; } }"
            .into(),
        // A key of the weighed upstream cannot name the side.
        format!("proxy_cache zone; proxy_cache_key $proxy_host$request_uri; server {{ {location} }}"),
    ] {
        assert_eq!(cached(&http), here, "{http}");
    }
    for http in [
        format!("proxy_cache zone; server {{ proxy_cache off; {location} }}"),
        format!("server {{ {location} location /other {{ proxy_cache zone; proxy_pass http://other; }} }}"),
        format!(
            "fastcgi_cache zone; proxy_cache_path /a keys_zone=zone:1m; proxy_cache_valid 1m; server {{ {location} }}"
        ),
        format!("# proxy_cache zone;\nserver {{ {location} }}"),
    ] {
        assert_eq!(cached(&http), None, "{http}");
    }
    let named = |key: &str, passes_to: &str| {
        let main = format!(
            "http {{ include trapkey/shop.conf; proxy_cache zone; {key} server {{ location / {{ proxy_pass http://{passes_to}; }} }} }}"
        );
        asked(
            &[("/etc/nginx/nginx.conf", &main), ("/etc/nginx/trapkey/shop.conf", SHOP)],
            "$trapkey_upstream",
            false,
        )
    };
    for key in ["", "proxy_cache_key $host$trapkey_upstream$uri;", "proxy_cache_key \"$proxy_host $uri\";"] {
        assert_eq!(named(key, "$trapkey_upstream"), None, "{key}");
    }
    assert!(named("proxy_cache_key $host$uri;", "$trapkey_upstream").is_some());
    assert!(named("", "shop_blue").unwrap().why.contains("takes its upstream from `$trapkey_upstream`"));
}

#[test]
fn the_error_log_is_the_last_one_of_the_main_context() {
    let log = |main: &str| {
        let printed = printed(&[("/etc/nginx/nginx.conf", main)]);
        Configuration::parse(&printed).unwrap().error_log().map(str::to_owned)
    };
    assert_eq!(
        log("error_log /var/log/a.log warn; http { error_log /var/log/b.log; }").as_deref(),
        Some("/var/log/a.log")
    );
    for main in ["http { error_log /var/log/b.log; }", "error_log stderr;", "error_log syslog:server=a;"] {
        assert_eq!(log(main), None, "{main}");
    }
}

#[test]
fn what_is_no_configuration_is_told_and_not_judged() {
    for text in ["", "nginx: syntax is ok", "# configuration file /etc/nginx/nginx.conf:\nhttp {"] {
        assert!(Configuration::parse(text).is_err(), "{text:?}");
    }
}

#[test]
fn every_other_way_to_a_side_is_found_and_none_that_is_the_split_itself() {
    let ways = |main: &str, apart: bool| -> Vec<String> {
        let files = [("/etc/nginx/nginx.conf", main), ("/etc/nginx/trapkey/shop.conf", SHOP)];
        let upstreams = ["shop".to_owned()];
        let question = Question {
            include: "/etc/nginx/trapkey/shop.conf",
            text: SHOP,
            upstreams: &upstreams,
            passes_to: "shop",
            variables: &[],
            cache_allowed: false,
        };
        let sides = [(Side::Blue, "shop_blue".to_owned()), (Side::Green, "shop_green".to_owned())];
        let mut known = Addresses::of(&["10.0.0.11:8080".to_owned()], &["10.0.0.12".to_owned()], 80);
        let sides: &[(Side, String)] = if apart { &sides } else { &[] };
        let found = Configuration::parse(&printed(&files)).unwrap().ways(&question, sides, &mut known);
        found.all().into_iter().map(|way| format!("{} {}", way.side.word(), way.line())).collect()
    };
    for (configuration, way) in [
        ("http { include trapkey/*.conf; server { location / { proxy_pass http://shop; } } }", ""),
        (
            "http {\n upstream admin {\n server 10.0.0.11:8080; }\n}",
            "blue the upstream `admin` (/etc/nginx/nginx.conf:2)",
        ),
        (
            "http { server { location /a { proxy_pass http://10.0.0.11:8080/x; } } }",
            "blue `proxy_pass http://10.0.0.11:8080/x` (/etc/nginx/nginx.conf:1)",
        ),
        (
            "stream { server { proxy_pass 10.0.0.12:80; } }",
            "green `proxy_pass 10.0.0.12:80` (/etc/nginx/nginx.conf:1)",
        ),
        (
            "http { server { location / { grpc_pass grpc://10.0.0.11:8080; } } }",
            "blue `grpc_pass grpc://10.0.0.11:8080` (/etc/nginx/nginx.conf:1)",
        ),
        (
            "http { map $host $to { default http://10.0.0.12; b shop; } }",
            "green the variable `$to` (/etc/nginx/nginx.conf:1)",
        ),
        (
            "http { server { set $to 10.0.0.11:8080; proxy_pass http://$to; } }",
            "blue the variable `$to` (/etc/nginx/nginx.conf:1)",
        ),
        ("http { upstream a { server 10.0.0.11:8080 down; server 10.0.0.11:8081; } }", ""),
        ("http { server { location / { proxy_pass http://10.0.0.11; } } }", ""),
    ] {
        assert_eq!(ways(configuration, false).join("; "), way, "{configuration}");
    }
    let direct = "http { server { location /old { proxy_pass http://shop_blue; } } }";
    assert_eq!(ways(direct, true), ["blue `proxy_pass http://shop_blue` (/etc/nginx/nginx.conf:1)"]);
}
