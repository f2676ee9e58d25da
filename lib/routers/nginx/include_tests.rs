use super::super::servers::Servers;
use super::*;

fn several(lines: &[&str]) -> Servers {
    Servers::Several(lines.iter().map(|line| (*line).to_owned()).collect())
}

fn shape(blue: &[&str], green: &[&str]) -> Shape {
    Shape {
        upstream: "shop".into(),
        sides: Sides::of(&several(blue), &several(green)).unwrap(),
        lines: Vec::new(),
        by: By::Requests,
        apart: false,
        variables: "trapkey".into(),
    }
}

fn servers(shape: &Shape, green: f64) -> Vec<String> {
    let include = Include::parse(&shape.render(green, "s")).unwrap();
    let upstream = include.upstream("shop").unwrap().children();
    upstream.iter().map(|directive| directive.words[1..].join(" ")).collect()
}

fn read(text: &str) -> Include {
    Include::parse(text).unwrap()
}

#[test]
fn reads_only_its_own_stamp() {
    assert_eq!(Stamp::parse("trapkey ab12 0.05\n"), Some(Stamp { id: "ab12".into(), green: 0.05 }));
    for text in ["", "ok", "trapkey ab12", "trapkey ab12 NaN", "trapkey ab12 2", "trapkey a 0.1 more"] {
        assert_eq!(Stamp::parse(text), None, "{text:?}");
    }
}

#[test]
fn a_side_without_share_is_not_in_the_file_and_a_lone_server_is_never_taken_out() {
    let lone = shape(&["b:1 max_fails=3"], &["g:1"]);
    assert_eq!(servers(&lone, 0.0), ["b:1 max_fails=3"]);
    assert_eq!(servers(&lone, 1.0), ["g:1"]);
    assert_eq!(servers(&lone, 0.05), ["b:1 weight=19 max_fails=0", "g:1 max_fails=0"]);
    let several = shape(&["b:1", "b:2 fail_timeout=5s"], &["g:1"]);
    assert_eq!(servers(&several, 0.0), ["b:1", "b:2 fail_timeout=5s"]);
    assert_eq!(servers(&several, 0.5), ["b:1", "b:2 fail_timeout=5s", "g:1 weight=2 max_fails=0"]);
}

#[test]
fn unequal_weights_keep_their_proportion_at_every_share_and_are_there_again_at_the_end() {
    let shape = shape(&["b:1 weight=2", "b:2", "b:3 weight=4"], &["g:1 weight=3", "g:2 weight=5"]);
    assert_eq!(servers(&shape, 0.0), ["b:1 weight=2", "b:2", "b:3 weight=4"]);
    assert_eq!(servers(&shape, 1.0), ["g:1 weight=3", "g:2 weight=5"]);
    for parts in 1..10_000_u32 {
        let (blue, green) = shape.sides.weights((10_000 - parts, parts));
        let (all_blue, all_green): (u64, u64) = (blue.iter().sum(), green.iter().sum());
        assert_eq!(all_green * u64::from(10_000 - parts), all_blue * u64::from(parts), "{parts}");
        assert!(blue[0] == 2 * blue[1] && blue[2] == 4 * blue[1] && 5 * green[0] == 3 * green[1], "{parts}");
    }
}

#[test]
fn the_greatest_weights_that_a_plan_may_name_do_not_overflow() {
    let side =
        |name: &str| -> Vec<String> { (1..=1000).map(|n| format!("{name}:{n} weight=1000")).collect() };
    let mut blue = side("b");
    blue[0] = "b:1 weight=999".into();
    let sides = Sides::of(&Servers::Several(blue), &Servers::Several(side("g"))).unwrap();
    let (blue, green) = sides.weights((9999, 1));
    assert_eq!(blue.iter().sum::<u64>(), 9999 * green.iter().sum::<u64>());
}

#[test]
fn what_is_written_is_read_back_for_either_side() {
    for shape in [
        shape(&["b:1"], &["g:1"]),
        shape(&["b:1 weight=2", "b:2"], &["g:1", "g:2 weight=7"]),
        Shape { apart: true, ..shape(&["b:1 weight=2", "b:2"], &["g:1"]) },
        Shape { by: By::User(Key::Cookie("uid".into())), ..shape(&["b:1"], &["g:1"]) },
    ] {
        let sides = Sides { blue: shape.sides.green.clone(), green: shape.sides.blue.clone() };
        let over = Shape { sides, ..shape.clone() };
        for green in [0.0, 0.000_1, 0.05, 0.5, 0.9999, 1.0] {
            let include = read(&shape.render(green, "s"));
            assert!(include.carries(&shape, &Stamp { id: "s".into(), green }));
            assert!(!include.carries(&shape, &Stamp { id: "t".into(), green }));
            assert!((include.green(&shape, green) - green).abs() < 1e-12, "{green}");
            assert!((include.green(&over, green) - (1.0 - green)).abs() < 1e-12, "{green}");
            assert_eq!(include.strangers(&shape, "f"), Vec::<String>::new());
            assert_eq!(include.unfit(&shape, &[]), None);
        }
        for (side, green) in [(Side::Blue, 0.0), (Side::Green, 1.0)] {
            let include = read(&shape.by_hand(side));
            assert!((include.green(&shape, green) - green).abs() < 1e-12);
            assert_eq!(include.unfit(&shape, &[]), None);
        }
    }
}

#[test]
fn what_people_wrote_for_the_one_side_is_not_taken_for_what_runs_of_the_other() {
    let shape = shape(&["b:1"], &["g:1"]);
    let (on_green, on_blue) = (read(&shape.by_hand(Side::Green)), read(&shape.by_hand(Side::Blue)));
    let stamp = |green| Stamp { id: "by-hand".into(), green };
    assert!(on_green.carries(&shape, &stamp(1.0)) && on_blue.carries(&shape, &stamp(0.0)));
    assert!(!on_green.carries(&shape, &stamp(0.0)) && !on_blue.carries(&shape, &stamp(1.0)));
}

#[test]
fn files_of_an_earlier_version_are_read() {
    let shape = shape(&["10.0.0.11:8080"], &["10.0.0.12:8080"]);
    let sides = Sides { blue: shape.sides.green.clone(), green: shape.sides.blue.clone() };
    let over = Shape { sides, ..shape.clone() };
    let old = |blue: &str, green: &str, share: f64| {
        read(&format!(
            "# Written by Trapkey; the next shift overwrites it. Green has {share}.\nupstream shop {{\n    server \
             10.0.0.11:8080 {blue};\n    server 10.0.0.12:8080 {green};\n}}\nmap \"\" $trapkey_split {{ default \"trapkey \
             s {share}\"; }}\n"
        ))
    };
    for (include, green) in [
        (old("weight=1", "down", 0.0), 0.0),
        (old("weight=19", "weight=1", 0.05), 0.05),
        (old("down", "weight=1", 1.0), 1.0),
    ] {
        assert!((include.green(&shape, green) - green).abs() < 1e-12, "{green}");
        assert!((include.green(&over, green) - (1.0 - green)).abs() < 1e-12, "{green}");
        assert_eq!(include.unfit(&shape, &[]), None);
    }
    // As the documentation had the first one.
    let first = read(
        "upstream shop {\n    server 10.0.0.11:8080;\n    server 10.0.0.12:8080 down;\n}\nmap \"\" $trapkey_split { default \"trapkey first 0\"; }",
    );
    assert!(first.green(&shape, 0.0) < 1e-12 && first.unfit(&shape, &[]).is_none());
}

#[test]
fn weights_that_people_edited_count_whatever_the_stamp_says() {
    let shape = shape(&["b:1"], &["g:1"]);
    let edited = shape.render(0.05, "s").replace("weight=19 ", "weight=3 ");
    assert!((read(&edited).green(&shape, 0.05) - 0.25).abs() < 1e-12);
    let closed = shape.render(0.05, "s").replace("server g:1 max_fails=0", "server g:1 down");
    assert!(read(&closed).green(&shape, 0.05) < 1e-12);
}

#[test]
fn who_is_on_neither_side_is_told() {
    let shape = shape(&["b:1"], &["g:1"]);
    let text = "upstream shop {\n server b:1;\n server x:1;\n server y:1 backup;\n server z:1 down;\n}\nmap \"\" $trapkey_split { default \"trapkey s 0\"; }";
    assert_eq!(read(text).strangers(&shape, "shop.conf"), ["server x:1 of upstream shop (shop.conf:3)"]);
}

#[test]
fn what_the_next_shift_would_lose_is_refused_in_a_file_that_people_wrote() {
    let shape = shape(&["b:1", "b:2 weight=2"], &["g:1 max_fails=3"]);
    let with = |inside: &str, beside: &str| {
        read(&format!(
            "{beside}upstream shop {{\n server b:1;\n server b:2 weight=2;\n{inside}\n}}\nmap \"\" $trapkey_split {{ default \"trapkey s 0\"; }}"
        ))
    };
    let lines = syntax::parse("keepalive 32; server z:1 backup;").unwrap();
    for inside in
        ["", "keepalive 32;", "server z:1 backup;", "server g:1 down;", "server g:1 max_fails=3 down;"]
    {
        assert_eq!(with(inside, "").unfit(&shape, &lines), None, "{inside}");
    }
    for (inside, beside, why) in [
        ("zone shop 64k;", "", "say it in `with.lines`"),
        ("keepalive 64;", "", "say it in `with.lines`"),
        ("server y:1 backup;", "", "say it in `with.lines`"),
        ("server g:1 max_fails=5 down;", "", "say it in `with.blue` or `with.green`"),
        ("least_conn;", "", "apart: true"),
        ("ip_hash\n;", "", "apart: true"),
        ("", "server { listen 80; }\n", "needs one of its own"),
        ("", "upstream other { server o:1; }\n", "needs one of its own"),
    ] {
        let (_, told) = with(inside, beside).unfit(&shape, &lines).unwrap();
        assert!(told.contains(why), "{inside} {beside}: {told}");
    }
    let unequal = read("upstream shop {\n server b:1;\n server b:2;\n}");
    let (line, told) = unequal.unfit(&shape, &[]).unwrap();
    assert!(line == 3 && told.contains("`with.blue`"), "{told}");
}
