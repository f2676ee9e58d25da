//! The include file on disk, and what nginx says when it refuses it or what is around it.

use super::*;

#[test]
fn an_include_file_that_is_a_link_stays_one_whoever_writes_it() {
    let (blue, green) = (Server::start("blue"), Server::start("green"));
    let behind = Behind::pair(&blue);
    let (link, target) = (behind.nginx.include.clone(), behind.folder.path().join("shared/split-7.conf"));
    std::fs::create_dir(target.parent().unwrap()).unwrap();
    std::fs::rename(&link, &target).unwrap();
    std::fs::set_permissions(&target, std::os::unix::fs::PermissionsExt::from_mode(0o664)).unwrap();
    std::os::unix::fs::symlink("shared/split-7.conf", &link).unwrap();
    let is_link = || std::fs::symlink_metadata(&link).unwrap().is_symlink();
    let mode = || std::fs::metadata(&target).unwrap().mode() & 0o7777;
    let mut router = behind.between(&blue, &green);
    router.check().unwrap();
    behind.set(router.as_mut(), forward(1.0));
    assert!(is_link() && std::fs::read_to_string(&target).unwrap().contains("trapkey"));
    assert_eq!((mode(), behind.met(20)), (0o664, only(&green, 20)));
    behind.by_hand(&router.by_hand(Half::Blue));
    assert_eq!(behind.met(40), only(&blue, 40));
    assert!(is_link());
    assert_eq!(mode(), 0o664);
    let folder = std::fs::read_dir(target.parent().unwrap()).unwrap();
    assert_eq!(folder.count(), 1, "no temporary file is left");
}

#[test]
fn what_nginx_refuses_in_the_include_file_is_named_with_its_line() {
    let (blue, green) = (Server::start("blue"), Server::start("green"));
    let behind = Behind::pair(&blue);
    let held = behind.nginx.held();
    let mut router = behind.router(&at(&blue), &at(&green), ", lines: [\"keepaliv 32;\"]");
    let told = refused(router.as_mut(), forward(0.5));
    let line = format!("[emerg] unknown directive \"keepaliv\" in {}:5", behind.nginx.include.display());
    assert!(told.contains(&line) && !told.contains("test failed"), "{told}");
    assert_eq!(behind.nginx.held(), held);
    assert_eq!(behind.met(20), only(&blue, 20));
}

#[test]
fn a_file_of_somebody_else_that_nginx_refuses_is_named_and_a_way_back_waits_on_disk() {
    let (blue, green) = (Server::start("blue"), Server::start("green"));
    let mut behind = Behind::pair(&blue);
    let other = other_file(&mut behind, "# mine\n");
    let mut router = behind.between(&blue, &green);
    behind.set(router.as_mut(), forward(0.5));
    let held = behind.nginx.held();
    std::fs::write(&other, "# mine\nserver_tokns off;\n").unwrap();
    let line = format!("[emerg] unknown directive \"server_tokns\" in {}:2", other.display());
    let told = refused(router.as_mut(), forward(0.9));
    assert!(told.contains(&line) && told.contains("the include file is not the reason"), "{told}");
    assert_eq!(behind.nginx.held(), held);
    let told = refused(router.as_mut(), BACK);
    assert!(told.contains(&line) && told.contains("holds the way back already"), "{told}");
    assert!(behind.nginx.names_only(blue.port), "{}", behind.nginx.held());
    // A check finds it too, and says the same.
    let told = router.check().unwrap_err().to_string();
    assert!(told.contains(&line), "{told}");
    // Somebody mends it and reloads, as the message says.
    std::fs::write(&other, "# mine\n").unwrap();
    let config = behind.nginx.config.display().to_string();
    behind.by_hand(&[format!("nginx -t -c {config} && nginx -s reload -c {config}")]);
    assert_eq!(behind.met(40), only(&blue, 40));
}

#[test]
fn a_reload_that_is_refused_says_why_with_its_line() {
    let (blue, green) = (Server::start("blue"), Server::start("green"));
    let mut behind = Behind::pair(&blue);
    let other = other_file(&mut behind, "# mine\n");
    std::fs::write(&other, "server_tokns off;\n").unwrap();
    let held = behind.nginx.held();
    let block =
        behind.nginx.block(&at(&blue), &at(&green), "").replace("test: [nginx, -t, -c,", "test: [\"true\",");
    let told = refused(behind.open(&block).as_mut(), forward(0.5));
    assert!(told.contains("nginx could not reload"), "{told}");
    let line = format!("[emerg] unknown directive \"server_tokns\" in {}:1", other.display());
    assert!(told.contains(&line), "{told}");
    assert_eq!(behind.nginx.held(), held);
}

#[test]
fn a_reload_that_the_master_rejects_is_told_from_its_error_log() {
    let (blue, green) = (Server::start("blue"), Server::start("green"));
    let mut behind = Behind::pair(&blue);
    let other = other_file(&mut behind, "# mine\n");
    // The test of a configuration passes over an address that is in use; a reload does not.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    std::fs::write(&other, format!("server {{ listen 127.0.0.1:{port}; }}\n")).unwrap();
    let held = behind.nginx.held();
    let block = behind.nginx.block(&at(&blue), &at(&green), ", settle: 4s");
    let told = refused(behind.open(&block).as_mut(), forward(0.5));
    assert!(told.contains("still runs the old configuration"), "{told}");
    assert!(
        told.contains("[emerg]") && told.contains(&format!("bind() to 127.0.0.1:{port} failed")),
        "{told}"
    );
    let log = behind.folder.path().join("error.log").display().to_string();
    assert!(told.contains(&log), "{told}");
    assert_eq!(behind.nginx.held(), held);
    assert_eq!(behind.met(20), only(&blue, 20));
}

#[test]
fn a_server_on_neither_side_that_gets_users_is_told_and_a_backup_is_not() {
    let [blue, green, third] = ["blue", "green", "third"].map(Server::start);
    let text = format!(
        "upstream shop {{\n server 127.0.0.1:{};\n server 127.0.0.1:{};\n server 127.0.0.1:9 backup;\n}}\n",
        blue.port, third.port
    );
    let behind = Behind::new(&text, "shop");
    let lines = ", lines: [\"server 127.0.0.1:9 backup;\"]";
    let mut router = behind.router(&at(&blue), &at(&green), lines);
    router.check().unwrap();
    let live = router.read().unwrap();
    let include = behind.nginx.include.display();
    let expected = format!("server 127.0.0.1:{} of upstream shop ({include}:3)", third.port);
    assert_eq!(live.strangers, [expected]);
    assert!(same_share(live.green, 0.0) && live.sides.is_none() && live.effective.is_none());
    // A file that does not run says nothing of what runs.
    let held = behind.nginx.held();
    std::fs::write(&behind.nginx.include, held.replace("trapkey first 0", "trapkey other 0")).unwrap();
    assert!(router.read().unwrap().strangers.is_empty());
    std::fs::write(&behind.nginx.include, held).unwrap();
    // The next shift names the servers of both sides, and the backup.
    behind.set(router.as_mut(), forward(0.5));
    assert!(router.read().unwrap().strangers.is_empty());
    assert!(behind.nginx.held().contains("    server 127.0.0.1:9 backup;\n"), "{}", behind.nginx.held());
    assert!(!behind.met(100).contains_key("third"));
}

#[test]
fn weights_that_people_edited_by_hand_are_read_although_their_stamp_is_the_old_one() {
    let (blue, green) = (Server::start("blue"), Server::start("green"));
    let behind = Behind::pair(&blue);
    let mut router = behind.between(&blue, &green);
    behind.set(router.as_mut(), forward(0.5));
    let edited = behind.nginx.held().replace(
        &format!("server 127.0.0.1:{} max_fails=0;", green.port),
        &format!("#server 127.0.0.1:{};", green.port),
    );
    std::fs::write(&behind.nginx.include, edited).unwrap();
    let config = behind.nginx.config.display().to_string();
    behind.by_hand(&[format!("nginx -s reload -c {config}")]);
    assert_eq!(behind.met(40), only(&blue, 40));
    assert!(same_share(router.read().unwrap().green, 0.0));
}

#[test]
fn an_include_file_that_is_broken_or_gone_does_not_stop_a_way_back() {
    let (blue, green) = (Server::start("blue"), Server::start("green"));
    let behind = Behind::pair(&blue);
    let mut router = behind.between(&blue, &green);
    behind.set(router.as_mut(), forward(0.5));
    std::fs::write(&behind.nginx.include, "upstream shop {\n server 127.0.0.1").unwrap();
    assert!(same_share(router.read().unwrap().green, 0.5), "what runs is what it was");
    let told = router.check().unwrap_err();
    assert_eq!(told.exit, trapkey::fault::Exit::Usage);
    assert!(told.to_string().contains("split.conf:2"), "{told}");
    behind.set(router.as_mut(), BACK);
    assert_eq!(behind.met(40), only(&blue, 40));
    // Nor does one that is gone; a way forward does.
    behind.set(router.as_mut(), forward(0.5));
    std::fs::remove_file(&behind.nginx.include).unwrap();
    assert!(same_share(router.read().unwrap().green, 0.5));
    refused(router.as_mut(), forward(0.9));
    assert!(!behind.nginx.include.exists());
    behind.set(router.as_mut(), BACK);
    assert_eq!(behind.met(40), only(&blue, 40));
}

#[test]
fn the_commands_for_use_by_hand_give_users_of_a_key_to_either_side() {
    let [blue, green] = ["blue", "green"].map(Server::start);
    for split in
        ["{by: user, cookie: uid}", "{by: user, header: x-user}", "{by: match, cookie: uid, value: beta}"]
    {
        let folder = folder();
        let nginx = Nginx::splitting(folder.path(), blue.port, green.port, split);
        let behind = Behind { folder, nginx };
        let mut router = behind.between(&blue, &green);
        router.check().unwrap();
        behind.set(router.as_mut(), forward(0.5));
        for (side, server, share) in [(Half::Green, &green, 1.0), (Half::Blue, &blue, 0.0)] {
            behind.by_hand(&router.by_hand(side));
            assert_eq!(behind.met(40), only(server, 40));
            assert!(same_share(router.read().unwrap().green, share), "{split}");
            router.check().unwrap();
        }
    }
}
