//! One flipped bit anywhere, and files that are cut, gone, swapped, empty or foreign.

use super::damaged::spoil;
use super::*;

/// Where what lies in a pack: of each blob and of the header the nonce, the text and the MAC.
fn regions(whole: &[u8], blobs: &[(usize, usize)]) -> Vec<(&'static str, usize, usize)> {
    let length = whole.len();
    let header = u32::from_le_bytes(*whole.last_chunk().unwrap()) as usize;
    let start = length - 4 - header;
    let sealed = |at: usize, length: usize, names: [&'static str; 3]| {
        [(names[0], at, 16), (names[1], at + 16, length - 32), (names[2], at + length - 16, 16)]
    };
    let mut regions = vec![("length", length - 4, 4)];
    regions.extend(sealed(start, header, ["header's nonce", "header", "header's MAC"]));
    for (offset, length) in blobs {
        regions.extend(sealed(*offset, *length, ["nonce", "blob", "MAC"]));
    }
    assert_eq!(regions.iter().map(|(.., length)| length).sum::<usize>(), length);
    regions
}

/// A repository with two snapshots of small files; what is in it.
fn small() -> (Lab, Repository, [Id; 2]) {
    let lab = Lab::new();
    lab.write("src/one.bin", &noise(900, 1));
    lab.write("src/sub/two.txt", &b"two ".repeat(400));
    let repository = lab.init();
    let first = lab.backup(&repository);
    lab.write("src/sub/three.bin", &noise(700, 3));
    let second = lab.backup(&repository);
    (lab, repository, [first, second])
}

/// The bits of a byte that are flipped: all of some bytes, one of the others.
fn bits(at: usize, all: bool) -> std::ops::Range<usize> {
    if all { 0..8 } else { at % 8..at % 8 + 1 }
}

fn damage_of(repository: &Repository, object: &str) -> Option<(String, Vec<String>)> {
    let health = check(repository);
    let found = health.damaged.into_iter().find(|damage| object.ends_with(&damage.object))?;
    Some((found.why, found.needed_by))
}

#[test]
fn a_bit_flipped_in_any_region_of_any_pack_is_found_and_what_needs_it_is_named() {
    let (lab, repository, ids) = small();
    let (mut flips, mut files) = (0, std::collections::BTreeSet::new());
    let packs = repository.packs().unwrap();
    assert_eq!(packs.len(), 4);
    for (id, blobs) in packs {
        let path = lab.path("repo").join(format!("data/{id:.2}/{id}"));
        let whole = std::fs::read(&path).unwrap();
        let places: Vec<_> = blobs.iter().map(|b| (b.offset as usize, b.length as usize)).collect();
        for (region, start, length) in regions(&whole, &places) {
            let step = (length / 8).max(1);
            for at in (start..start + length).step_by(step) {
                for bit in bits(at, region == "length") {
                    spoil(&path, |bytes| bytes[at] ^= 1 << bit);
                    let (why, needed_by) = damage_of(&repository, path.to_str().unwrap())
                        .unwrap_or_else(|| panic!("{region}, byte {at}, bit {bit} is not found"));
                    let content = matches!(region, "nonce" | "blob" | "MAC");
                    assert_eq!(content, !needed_by.is_empty(), "{region} {at} {bit}: {why} {needed_by:?}");
                    for line in needed_by {
                        let (snapshot, file) = line.split_once(' ').unwrap();
                        assert!(ids.iter().any(|id| id.short() == snapshot), "{line}");
                        files.insert(file.rsplit('/').next().unwrap().to_owned());
                    }
                    spoil(&path, |bytes| bytes[at] ^= 1 << bit);
                    flips += 1;
                }
            }
        }
    }
    for file in ["one.bin", "two.txt", "three.bin", "sub", "src"] {
        assert!(files.contains(file), "{file}: {files:?}");
    }
    assert!(flips > 200, "{flips}");
    assert!(check(&repository).damaged.is_empty());
}

#[test]
fn a_bit_flipped_in_any_other_file_is_found_and_the_file_named() {
    let (lab, repository, _) = small();
    repository.add_key(&Passphrase::new("another").unwrap(), Duration::ZERO).unwrap();
    let mut paths = vec![lab.path("repo/config")];
    for folder in ["index", "snapshots", "keys"] {
        let files = lab.stored(folder);
        assert_eq!(files.len(), 2, "{folder}");
        paths.extend(files);
    }
    for path in paths {
        let length = usize::try_from(std::fs::metadata(&path).unwrap().len()).unwrap();
        let ends = (0..20).chain(length - 20..length);
        for at in (20..length - 20).step_by(31).chain(ends) {
            spoil(&path, |bytes| bytes[at] ^= 1 << (at % 8));
            let found = damage_of(&repository, path.to_str().unwrap());
            assert!(found.is_some(), "{} byte {at}", path.display());
            spoil(&path, |bytes| bytes[at] ^= 1 << (at % 8));
        }
        // Cut, empty, gone.
        let whole = std::fs::read(&path).unwrap();
        for length in [length - 1, 33, 1, 0] {
            spoil(&path, |bytes| bytes.truncate(length));
            assert!(damage_of(&repository, path.to_str().unwrap()).is_some(), "{} {length}", path.display());
            spoil(&path, |bytes| bytes.clone_from(&whole));
        }
    }
    assert!(check(&repository).damaged.is_empty());
}

#[test]
fn a_missing_file_config_is_found() {
    let (lab, repository, _) = small();
    std::fs::remove_file(lab.path("repo/config")).unwrap();
    assert_eq!(damage_of(&repository, "config").unwrap().0, "it is missing");
}

#[test]
fn packs_that_changed_places_are_found_and_nothing_of_them_is_restored() {
    let (lab, repository, ids) = small();
    let packs = lab.stored("data");
    for one in 0..packs.len() {
        let other = (one + 1) % packs.len();
        let swap = || {
            let aside = lab.path("aside");
            std::fs::rename(&packs[one], &aside).unwrap();
            std::fs::rename(&packs[other], &packs[one]).unwrap();
            std::fs::rename(&aside, &packs[other]).unwrap();
        };
        swap();
        let health = check(&repository);
        for pack in [&packs[one], &packs[other]] {
            assert!(health.damaged.iter().any(|d| pack.to_str().unwrap().ends_with(&d.object)), "{health:?}");
        }
        assert!(health.damaged.iter().any(|damage| !damage.needed_by.is_empty()), "{health:?}");
        let out = lab.path(&format!("out-{one}"));
        let restored = repository.read(ids[1]).unwrap().restore(&out, &How::default(), &Progress::default());
        assert!(restored.is_err());
        assert!(repository.prune(Thrift::default(), &mut |_, _| {}).is_err());
        assert_eq!(lab.stored("data").len(), 4);
        swap();
    }
    assert!(check(&repository).damaged.is_empty());
}

#[test]
fn files_that_do_not_belong_there_harm_nothing() {
    let (lab, repository, ids) = small();
    let nothing = Id::of(b"");
    for garbage in
        ["README", "data/00/note.txt", "index/.hidden", "snapshots/abc", "keys/old.bak", "data/zz/x"]
    {
        lab.write(&format!("repo/{garbage}"), b"garbage");
    }
    lab.write(&format!("repo/data/{nothing:.2}/{nothing}"), b"");
    lab.write(&format!("repo/data/aa/{}", "aa".repeat(32)), b"no pack at all");
    let health = check(&repository);
    assert!(health.damaged.is_empty() && health.packs_unnamed == 2, "{health:?}");
    lab.open().prune(Thrift::default(), &mut |_, _| {}).unwrap();
    assert_eq!(check(&repository).packs_unnamed, 0);
    assert!(lab.path("repo/README").exists() && lab.path("repo/snapshots/abc").exists());
    lab.restore(&repository, ids[1], "out");
    // What has the name of a file that is read is damage, and stops a prune.
    for folder in ["index", "snapshots"] {
        lab.write(&format!("repo/{folder}/{nothing}"), b"");
        let (why, _) = damage_of(&repository, &format!("{folder}/{nothing}")).unwrap();
        assert!(why.contains("not written with the key"), "{why}");
        let fault = repository.prune(Thrift::default(), &mut |_, _| {}).unwrap_err();
        assert!(format!("{fault}").contains(&nothing.short()), "{fault}");
        std::fs::remove_file(lab.path(&format!("repo/{folder}/{nothing}"))).unwrap();
    }
    assert!(check(&repository).damaged.is_empty());
}

#[test]
fn the_key_of_another_repository_does_not_lock_out_whoever_has_the_right_one() {
    let other = Lab::new();
    other.init();
    let theirs = other.stored("keys").remove(0);
    // Whichever of the two is tried first.
    for _ in 0..4 {
        let (lab, _, ids) = small();
        let ours = lab.stored("keys").remove(0);
        std::fs::copy(&theirs, ours.with_file_name(theirs.file_name().unwrap())).unwrap();
        let opened = lab.open();
        assert_eq!(opened.snapshots().unwrap().whole.len(), ids.len());
        assert!(check(&opened).damaged.is_empty());
        let wrong = Repository::open(lab.backend(), &Passphrase::new("wrong").unwrap()).unwrap_err();
        assert_eq!(wrong.what, "the passphrase does not open the repository");
        // Alone it opens nothing, and says so.
        std::fs::remove_file(ours).unwrap();
        let fault = Repository::open(lab.backend(), &word()).unwrap_err();
        assert!(fault.what.contains("damaged"), "{fault}");
        assert!(fault.cause.as_ref().unwrap().contains("not written with the key"), "{fault}");
        assert!(fault.place.as_ref().unwrap().ends_with("config"), "{fault}");
    }
}

#[test]
fn a_new_index_still_names_a_pack_whose_header_alone_is_damaged() {
    let (lab, repository, ids) = small();
    for pack in lab.stored("data") {
        let end = std::fs::read(&pack).unwrap().len() - 10;
        spoil(&pack, |bytes| bytes[end] ^= 4);
    }
    let unreadable = repository.rebuild_index().unwrap();
    assert_eq!(unreadable.len(), 4);
    lab.restore(&repository, ids[0], "first");
    lab.restore(&repository, ids[1], "second");
    let health = check(&repository);
    assert_eq!((health.damaged.len(), health.packs_unnamed), (4, 0), "{health:?}");
}
