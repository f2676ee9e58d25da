//! Whether a user sees all of a database: what it may not see is missing in a dump without a word.

/// Whether the lines of SHOW GRANTS let the user see the triggers of a database. Also true when a role may
/// do so, for what is in it is not shown.
pub(super) fn triggers(lines: &[String], database: &str) -> bool {
    lines.iter().any(|line| match scope(line) {
        None => true,
        Some((rights, place)) => covers(place, database) && has(rights, &["ALL PRIVILEGES", "TRIGGER"]),
    })
}

/// The same for stored procedures and functions.
pub(super) fn routines(lines: &[String], database: &str) -> bool {
    let any = [
        "ALL PRIVILEGES",
        "EXECUTE",
        "ALTER ROUTINE",
        "CREATE ROUTINE",
        "SHOW_ROUTINE",
        "SHOW CREATE ROUTINE",
    ];
    lines.iter().any(|line| match scope(line) {
        None => true,
        Some((rights, place)) => {
            (covers(place, database) && has(rights, &any))
                || (place.starts_with("*.") || place.starts_with("`mysql`.")) && has(rights, &["SELECT"])
        }
    })
}

/// `GRANT rights ON place TO …`; none for a role that was granted.
fn scope(line: &str) -> Option<(&str, &str)> {
    let (rights, rest) = line.strip_prefix("GRANT ").unwrap_or(line).split_once(" ON ")?;
    let place = rest.rsplit_once(" TO ").map_or(rest, |(place, _)| place);
    Some((rights, place))
}

fn has(rights: &str, any: &[&str]) -> bool {
    rights.split(',').any(|right| any.contains(&right.trim()))
}

/// Whether `*.*` or `` `sh\_op%`.* `` means the database.
fn covers(place: &str, database: &str) -> bool {
    let Some(pattern) = place.strip_suffix(".*") else { return false };
    let pattern = pattern.strip_prefix('`').and_then(|p| p.strip_suffix('`')).unwrap_or(pattern);
    pattern == "*"
        || like(
            &pattern.replace("``", "`").chars().collect::<Vec<_>>(),
            &database.chars().collect::<Vec<_>>(),
        )
}

fn like(pattern: &[char], text: &[char]) -> bool {
    match (pattern, text) {
        ([], rest) => rest.is_empty(),
        (['%', more @ ..], _) => (0..=text.len()).any(|skip| like(more, &text[skip..])),
        (['_', more @ ..], [_, rest @ ..]) => like(more, rest),
        (['\\', letter, more @ ..] | [letter, more @ ..], [first, rest @ ..]) => {
            letter == first && like(more, rest)
        }
        (_, []) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_user_may_not_see_is_known_from_its_grants() {
        for (line, triggers_seen, routines_seen) in [
            ("GRANT USAGE ON *.* TO `u`@`%`", false, false),
            ("GRANT ALL PRIVILEGES ON `shop`.* TO `u`@`%`", true, true),
            ("GRANT ALL PRIVILEGES ON `other`.* TO `u`@`%`", false, false),
            ("GRANT SELECT, TRIGGER ON `sh\\_p`.* TO `u`@`%`", false, false),
            ("GRANT SELECT, TRIGGER ON `sh_p`.* TO `u`@`%`", true, false),
            ("GRANT EXECUTE ON `s%`.* TO `u`@`%` WITH GRANT OPTION", false, true),
            ("GRANT SELECT ON *.* TO `u`@`%`", false, true),
            ("GRANT SELECT, TRIGGER ON `shop`.`orders` TO `u`@`%`", false, false),
            ("GRANT `backup` TO `u`@`%`", true, true),
        ] {
            let lines = [line.to_owned()];
            assert_eq!(
                (triggers(&lines, "shop"), routines(&lines, "shop")),
                (triggers_seen, routines_seen),
                "{line}"
            );
        }
    }
}
