//! Where a file has holes: long runs of zeros that nobody has to read.

use std::fs::File;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

/// What comes next in a file.
pub(super) enum Part {
    /// So many bytes that no disk holds: zeros.
    Hole(u64),
    /// So many bytes that have to be read.
    Data(u64),
}

/// The holes of a file, as the file system tells them.
pub(super) struct Holes<'a> {
    file: &'a File,
    /// Where the data that is being read ends; everything is data where the file system does not tell.
    data_until: u64,
}

impl<'a> Holes<'a> {
    pub(super) fn new(file: &'a File) -> Self {
        Self { file, data_until: 0 }
    }

    /// What is at a place before the end of the file, which lies at `whole`.
    pub(super) fn at(&mut self, place: u64, whole: u64) -> Part {
        if place >= self.data_until {
            // Behind the last data there is none.
            let data = match seek(self.file, SeekFrom::Data(place)) {
                Ok(data) => data.clamp(place, whole),
                Err(Errno::NXIO) => whole,
                Err(_) => place,
            };
            if data > place {
                return Part::Hole(data - place);
            }
            let hole = seek(self.file, SeekFrom::Hole(place)).unwrap_or(whole);
            self.data_until = if hole > place { hole } else { whole };
        }
        Part::Data(self.data_until.min(whole) - place)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;
    use std::path::Path;
    use std::sync::Arc;
    use std::time::Duration;

    use crate::repository::restic::{Local, Node, NodeKind, Passphrase, Repository, Spec};

    /// What a file becomes in a snapshot with a manifest: its node, and the manifest.
    fn stored(repository: &Repository, path: &Path) -> (Node, Vec<u8>) {
        let mut spec = Spec::new(vec!["/file".into()]);
        spec.manifest = Some("SHA256SUMS".into());
        let mut archive = repository.begin(spec).unwrap();
        archive.folder(Path::new("/file"), path, &|_: &Path, _: NodeKind| true).unwrap();
        let id = archive.seal().unwrap().commit().unwrap();
        let opened = repository.read(id).unwrap();
        let mut manifest = Vec::new();
        opened.dump(Path::new("SHA256SUMS"), &mut manifest).unwrap();
        (opened.find(Path::new("file")).unwrap().unwrap(), manifest)
    }

    #[test]
    fn a_file_with_holes_is_the_same_as_one_that_is_full_of_zeros() {
        let folder = tempfile::tempdir().unwrap();
        let backend = Arc::new(Local::new(folder.path().join("repo")));
        let word = Passphrase::new("a word").unwrap();
        let repository = Repository::init(backend, &word, Duration::ZERO).unwrap();
        let mut noise = Vec::new();
        for number in 0..200_000_u64 {
            noise.extend_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
        }
        // Where the noise lies, and how long the file is.
        for (number, (places, length)) in
            [(vec![0, 60_000_000], 64 << 20), (vec![30_000_001], 100 << 20), (vec![], (40 << 20) + 7)]
                .into_iter()
                .enumerate()
        {
            let (holes, full) = (folder.path().join("holes"), folder.path().join("full"));
            let mut bytes = vec![0; length];
            let file = std::fs::File::create(&holes).unwrap();
            file.set_len(length as u64).unwrap();
            for place in places {
                file.write_all_at(&noise, place as u64).unwrap();
                bytes[place..place + noise.len()].copy_from_slice(&noise);
            }
            std::fs::write(&full, bytes).unwrap();
            let (with, manifest) = stored(&repository, &holes);
            let (without, same) = stored(&repository, &full);
            assert_eq!(with.size, length as u64, "{number}");
            assert_eq!(with.content, without.content, "{number}");
            assert_eq!(manifest, same, "{number}");
        }
    }
}
