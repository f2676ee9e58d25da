//! The lowest version that a server accepts, and whether that can be known.

use super::hello::{Old, PROTOCOL_VERSION, Reply};

/// What is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Lowest {
    /// This one it accepts, and none of those before.
    Is(Old),
    /// None of them.
    None {
        /// Whether it turned one away without a word, which may have another reason.
        wordless: bool,
    },
    /// It cannot be said.
    Unknown(String),
}

/// Asks for one version after the other, the oldest first, each with all ciphers.
pub(super) fn lowest(
    lists: &[Vec<u16>],
    mut ask: impl FnMut(Old, &[u16]) -> Result<Reply, String>,
) -> Lowest {
    let mut wordless = false;
    for version in Old::ALL {
        for ciphers in lists {
            match ask(version, ciphers) {
                Ok(Reply::Hello(chosen)) => match Old::of(chosen) {
                    // A server may choose one that is lower than what it was asked for.
                    Some(chosen) if chosen <= version => return Lowest::Is(chosen),
                    Some(_) => break,
                    None => {
                        let shown = version.text();
                        return Lowest::Unknown(format!(
                            "asked for version {shown} it chose another protocol"
                        ));
                    }
                },
                Ok(Reply::Alert(PROTOCOL_VERSION)) => break,
                // It may be about the ciphers.
                Ok(Reply::Alert(_)) => {}
                Ok(Reply::Closed) => wordless = true,
                Err(why) => {
                    return Lowest::Unknown(format!("no answer on version {}: {why}", version.text()));
                }
            }
        }
    }
    Lowest::None { wordless }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTS: [&[u16]; 2] = [&[1, 2], &[3]];

    fn of(accepts: &[(Old, u16)], refusal: &Reply) -> Lowest {
        let lists = LISTS.map(<[u16]>::to_vec);
        lowest(&lists, |version, ciphers| {
            let fits = accepts.iter().any(|(known, cipher)| *known == version && ciphers.contains(cipher));
            let bytes =
                [[3, 0], [3, 1], [3, 2], [3, 3]].into_iter().find(|bytes| Old::of(*bytes) == Some(version));
            Ok(if fits { Reply::Hello(bytes.unwrap()) } else { refusal.clone() })
        })
    }

    #[test]
    fn a_rare_cipher_of_an_old_version_is_found() {
        for refusal in [Reply::Alert(40), Reply::Alert(71), Reply::Closed] {
            for version in Old::ALL {
                for cipher in [1, 2, 3] {
                    assert_eq!(of(&[(version, cipher), (Old::Tls12, 1)], &refusal), Lowest::Is(version));
                }
            }
        }
        assert_eq!(of(&[], &Reply::Alert(40)), Lowest::None { wordless: false });
        assert_eq!(of(&[], &Reply::Alert(70)), Lowest::None { wordless: false });
        assert_eq!(of(&[], &Reply::Closed), Lowest::None { wordless: true });
    }

    #[test]
    fn what_is_not_known_is_not_said() {
        let lists = LISTS.map(<[u16]>::to_vec);
        let late = lowest(&lists, |version, _| match version {
            Old::Tls11 => Err("the time was up".into()),
            _ => Ok(Reply::Alert(70)),
        });
        assert_eq!(late, Lowest::Unknown("no answer on version 1.1: the time was up".into()));
        assert_eq!(lowest(&lists, |_, _| Ok(Reply::Hello([3, 0]))), Lowest::Is(Old::Ssl30));
        assert!(matches!(lowest(&lists, |_, _| Ok(Reply::Hello([9, 9]))), Lowest::Unknown(_)));
    }
}
