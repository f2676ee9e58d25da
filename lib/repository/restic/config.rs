//! The file `config`: which version of the format, which repository.

use serde::{Deserialize, Serialize};

use super::id::Id;
use super::{crypto, polynomial};
use crate::fault::Fault;

/// What the file `config` says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Config {
    /// 1, which is only read here, or 2.
    pub version: u32,
    /// The repository's own id, the same wherever it is copied to.
    pub id: Id,
    /// What restic's chunker cuts by, in hexadecimal.
    pub chunker_polynomial: String,
}

impl Config {
    /// A new repository of version 2.
    pub(super) fn new() -> Result<Self, Fault> {
        let mut id = [0; 32];
        crypto::random(&mut id)?;
        Ok(Self { version: 2, id: Id(id), chunker_polynomial: format!("{:x}", polynomial::random()?) })
    }

    /// Reads it and refuses what is not known.
    pub(super) fn parse(json: &[u8]) -> Result<Self, String> {
        let config: Self = serde_json::from_slice(json).map_err(|e| e.to_string())?;
        if !matches!(config.version, 1 | 2) {
            return Err(format!("its version is {}; known here are 1 and 2", config.version));
        }
        Ok(config)
    }

    /// What the cuts of our chunker depend on, so that they tell an observer of the store nothing.
    pub(super) fn seed(&self) -> u64 {
        u64::from_str_radix(&self.chunker_polynomial, 16).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_versions_and_nonsense_are_refused() {
        let config = Config::new().unwrap();
        let json = serde_json::to_string(&config).unwrap();
        assert_eq!(Config::parse(json.as_bytes()).unwrap().id, config.id);
        let later = json.replace("\"version\":2", "\"version\":3");
        assert!(Config::parse(later.as_bytes()).unwrap_err().contains("known here are 1 and 2"));
        assert!(Config::parse(b"{\"version\":2}").is_err());
        assert_ne!(config.seed(), 0);
    }
}
