//! Configurations in shapes that people have, of `tests/field/nginx`, under a real nginx.

use super::*;
use crate::support::free_port;

/// Copies a configuration, with what is its own of this test filled in.
fn lay_out(from: &Path, to: &Path, fill: &dyn Fn(&str) -> String) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            lay_out(&path, &target, fill);
        } else {
            std::fs::write(target, fill(&std::fs::read_to_string(&path).unwrap())).unwrap();
        }
    }
}

/// A real nginx on one of them, its include file as the documentation has the first one.
fn start(shape: &str, blue: &Server) -> Behind {
    let (folder, port) = (folder(), free_port());
    let at = folder.path().display().to_string();
    let user = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
    let fill = |text: &str| {
        text.replace("@AT@", &at)
            .replace("@PORT@", &port.to_string())
            .replace("@BLUE@", &format!("127.0.0.1:{}", blue.port))
            .replace("@USER@", user)
    };
    let shapes = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/field/nginx");
    lay_out(&shapes.join(shape), folder.path(), &fill);
    let include = folder.path().join("trapkey/shop.conf");
    std::fs::create_dir(include.parent().unwrap()).unwrap();
    let first =
        "upstream shop {\n    server @BLUE@;\n}\nmap \"\" $trapkey_split { default \"trapkey first 0\"; }\n";
    std::fs::write(&include, fill(first)).unwrap();
    let nginx = Nginx::foreign(&folder.path().join("nginx.conf"), &include, port);
    Behind { folder, nginx }
}

#[test]
fn configurations_that_can_be_split_are_split_and_left_as_they_are() {
    let (blue, green) = (Server::start("blue"), Server::start("green"));
    for shape in ["debian", "one-file", "generated"] {
        let behind = start(shape, &blue);
        assert_eq!(behind.met(20), only(&blue, 20), "{shape}");
        let mut router = behind.between(&blue, &green);
        router.check().unwrap_or_else(|fault| panic!("{shape}: {fault}"));
        behind.set(router.as_mut(), forward(0.5));
        let met = behind.met(100);
        assert!(met.len() == 2 && met["green"].abs_diff(50) <= 10, "{shape}: {met:?}");
        behind.set(router.as_mut(), forward(1.0));
        survives(&behind, &green, shape);
        behind.set(router.as_mut(), BACK);
        survives(&behind, &blue, shape);
    }
}

#[test]
fn configurations_that_cannot_be_split_are_refused_with_the_line_that_is_why() {
    let (blue, green) = (Server::start("blue"), Server::start("green"));
    for (shape, place, why) in [
        ("cached", "snippets/microcache.conf:2", "a cache answers requests in front of `shop`"),
        ("elsewhere", "conf.d/shop.conf:2", "the upstream `shop` is defined here"),
    ] {
        let behind = start(shape, &blue);
        let fault = behind.between(&blue, &green).check().unwrap_err();
        assert_eq!(fault.exit, trapkey::fault::Exit::Usage, "{shape}: {fault}");
        assert!(fault.to_string().contains(place) && fault.to_string().contains(why), "{shape}: {fault}");
    }
}

#[test]
fn the_first_include_file_of_the_documentation_outlives_a_moment_of_failure() {
    let (blue, green) = (Server::start("blue"), Server::start("green"));
    for page in ["docs/plan.md", "docs/routers.md"] {
        let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(page)).unwrap();
        let (_, first) = text.split_once("/shop.conf, the first time written by you\n").expect(page);
        let lines: Vec<&str> = first.lines().map_while(|line| line.strip_prefix("    ")).collect();
        let (upstream, stamp) = lines.split_at(lines.len() - 1);
        assert!(stamp[0].starts_with("map \"\" $trapkey_split {"), "{page}: {stamp:?}");
        let own = upstream.join("\n").replace("10.0.0.11:8080", &format!("127.0.0.1:{}", blue.port));
        let behind = Behind::new(&format!("{own}\n"), "shop");
        behind.between(&blue, &green).check().unwrap_or_else(|fault| panic!("{page}: {fault}"));
        survives(&behind, &blue, page);
    }
}
