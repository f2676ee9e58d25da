//! What a name says of its value: `DB_PASS`, `x-api-key`, `sessionCookie` hold secrets, `COMPASS`, `KEYBOARD` and
//! `TOKEN_TTL` do not.

/// Words that make the value a secret wherever they stand in a name.
const SECRET: &[&str] = &[
    "SECRET",
    "SECRETS",
    "TOKEN",
    "TOKENS",
    "PASS",
    "PASSWD",
    "PASSWORD",
    "PASSWORDS",
    "PASSPHRASE",
    "PASSPHRASES",
    "PASSCODE",
    "PW",
    "PWD",
    "PAT",
    "PIN",
    "OTP",
    "TOTP",
    "CRED",
    "CREDS",
    "CREDENTIAL",
    "CREDENTIALS",
    "WEBHOOK",
    "WEBHOOKS",
    "COOKIE",
    "COOKIES",
    "JWT",
    "BEARER",
    "AUTH",
    "AUTHORIZATION",
    "AUTHORISATION",
    "AUTHENTICATION",
    "DSN",
    "APIKEY",
    "APIKEYS",
    "SIGNATURE",
    "SALT",
];
/// Words that do so at the end of a name, or before a word such as `PROD` or `2`.
const KEYS: &[&str] = &["KEY", "KEYS", "PRIVATE"];
/// What a word may end in: `PGPASSWORD`, `SSHPASS`, `NPMTOKEN`.
const ENDINGS: &[&str] = &[
    "PASSWORD",
    "PASSWD",
    "PASSPHRASE",
    "SECRET",
    "TOKEN",
    "PASS",
    "PWD",
    "APIKEY",
    "ACCESSKEY",
    "SECRETKEY",
    "PRIVATEKEY",
    "SIGNKEY",
    "SIGNINGKEY",
    "SSHKEY",
    "AUTHKEY",
    "MASTERKEY",
    "DEPLOYKEY",
    "ENCRYPTIONKEY",
    "PASSKEY",
    "COOKIE",
];
/// Words that end so and mean something else.
const HARMLESS: &[&str] =
    &["COMPASS", "BYPASS", "TRESPASS", "ASKPASS", "ENCOMPASS", "SURPASS", "OVERPASS", "UNDERPASS", "OLDPWD"];
/// A last word that says something about a secret, which is none itself.
const ABOUT: &[&str] = &[
    "FILE",
    "PATH",
    "DIR",
    "FOLDER",
    "LOCATION",
    "NAME",
    "USER",
    "USERNAME",
    "HOST",
    "PORT",
    "SOCK",
    "SOCKET",
    "REALM",
    "TTL",
    "AGE",
    "EXPIRY",
    "EXPIRES",
    "EXPIRATION",
    "TIMEOUT",
    "LENGTH",
    "LEN",
    "SIZE",
    "COUNT",
    "LIMIT",
    "MIN",
    "MAX",
    "RATE",
    "TYPE",
    "MODE",
    "KIND",
    "METHOD",
    "ALG",
    "ALGORITHM",
    "ALGO",
    "FORMAT",
    "ENABLED",
    "DISABLED",
    "REQUIRED",
    "VERSION",
    "ISSUER",
    "AUDIENCE",
    "SCOPE",
    "SCOPES",
    "FINGERPRINT",
    "ENDPOINT",
    "DOMAIN",
    "PROVIDER",
    "POLICY",
    "COMMAND",
    "ARN",
    "REGION",
    "VAULT",
    "RING",
    "HELPER",
    "ALIAS",
    "SERVER",
    "SERVICE",
    "CHECKS",
    "THROUGH",
];
/// The same for everything but `SECRET`, `WEBHOOK` and `DSN`: `AWS_ACCESS_KEY_ID`, `OAUTH_TOKEN_URL`.
const PLACES: &[&str] = &["ID", "IDS", "URL", "URI"];
/// A word before `KEY` that makes it no secret.
const OPEN_KEYS: &[&str] =
    &["PUBLIC", "CACHE", "SORT", "PRIMARY", "FOREIGN", "PARTITION", "ROUTING", "AUTHORIZED"];
/// What may follow `KEY` and leaves it one.
const AFTER_KEY: &[&str] = &[
    "PEM",
    "B64",
    "BASE64",
    "JSON",
    "VALUE",
    "OLD",
    "NEW",
    "NEXT",
    "PROD",
    "PRODUCTION",
    "STAGING",
    "STAGE",
    "TEST",
    "DEV",
    "PASS",
    "MAIN",
    "BACKUP",
];

/// Whether a variable, header, parameter or key of that name holds a secret.
pub(super) fn holds_a_secret(name: &str) -> bool {
    let words = words(name);
    // The shell's own, and the folders of it.
    let (Some(last), false) = (words.last(), matches!(name, "PWD" | "OLDPWD")) else { return false };
    let is = |list: &[&str], word: &str| list.contains(&word);
    let secret = |word: &str| {
        is(SECRET, word)
            || (ENDINGS.iter().any(|end| word.ends_with(end)) && !is(HARMLESS, word))
            || word.starts_with("PASSW") && word.len() > 6 && !word.starts_with("PASSWORDLESS")
    };
    let key = |at: usize| {
        is(KEYS, &words[at])
            && !(at > 0 && is(OPEN_KEYS, &words[at - 1]))
            && words[at + 1..]
                .iter()
                .all(|word| is(AFTER_KEY, word) || word.bytes().all(|b| b.is_ascii_digit()))
    };
    if is(ABOUT, last) {
        return false;
    }
    let strong =
        |word: &String| matches!(word.as_str(), "SECRET" | "SECRETS" | "WEBHOOK" | "WEBHOOKS" | "DSN");
    if is(PLACES, last) {
        return words.iter().any(strong);
    }
    words.iter().any(|word| secret(word)) || (0..words.len()).any(key)
}

/// Whether a variable of that name has the path of a file with a secret in it: `PASSWORD_FILE`, `TOKEN_PATH`.
pub(super) fn is_the_file_of_a_secret(name: &str) -> bool {
    let head = name
        .rsplit_once('_')
        .filter(|(_, last)| matches!(last.to_ascii_uppercase().as_str(), "FILE" | "PATH"));
    head.is_some_and(|(head, _)| holds_a_secret(head))
}

/// A name's words in capitals: parted by what is no letter or digit, and where a capital follows a small letter.
fn words(name: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut before = ' ';
    for c in name.chars() {
        let begins =
            !before.is_ascii_alphanumeric() || (before.is_ascii_lowercase() && c.is_ascii_uppercase());
        if c.is_ascii_alphanumeric() {
            match words.last_mut().filter(|_| !begins) {
                Some(word) => word.push(c.to_ascii_uppercase()),
                None => words.push(c.to_ascii_uppercase().to_string()),
            }
        }
        before = c;
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_whether_its_value_is_a_secret() {
        for name in [
            "DB_PASSWORD",
            "PGPASSWORD",
            "MYSQL_PWD",
            "SSHPASS",
            "DB_PASS",
            "pass",
            "PASS",
            "GH_PAT",
            "PAT",
            "API_KEYS",
            "KEYS",
            "SESSION_COOKIE",
            "COOKIE",
            "CI_JOB_JWT_V2",
            "JWT",
            "BEARER",
            "X_BEARER",
            "SLACK_WEBHOOK_URL",
            "SENTRY_DSN",
            "VAULT_SECRET_ID",
            "x-api-key",
            "X-Amz-Signature",
            "X-Amz-Security-Token",
            "X-Amz-Credential",
            "sslpassword",
            "access_token",
            "private_token",
            "clientSecret",
            "apiKey",
            "SIGN_KEY_PEM",
            "API_KEY_2",
            "DEPLOY_KEY_PROD",
            "DOCKER_AUTH_CONFIG",
            "NODE_AUTH_TOKEN",
            "AUTHORIZATION",
            "proxy-authorization",
            "npm_config__auth",
            "LOGIN_PIN",
            "TRAPKEY_PASSPHRASE",
            "AWS_SECRET_ACCESS_KEY",
            "AWS_SESSION_TOKEN",
            "CREDS",
            "KEY",
            "CONFIG_KEY",
            "JWT_SECRET",
            "NPMTOKEN",
            "RAILS_MASTER_KEY",
            "_authToken",
            "PASSWORD_HASH",
            "passw0rd",
        ] {
            assert!(holds_a_secret(name), "{name}");
        }
    }

    #[test]
    fn other_names_are_no_secrets() {
        for name in [
            "PATH",
            "COMPASS",
            "COMPASS_URL",
            "KEYBOARD",
            "KEYBOARD_LAYOUT",
            "MONKEY",
            "PWD",
            "OLDPWD",
            "GIT_AUTHOR_NAME",
            "XAUTHORITY",
            "SSH_AUTH_SOCK",
            "SSH_ASKPASS",
            "BYPASS",
            "PATTERN",
            "COMPAT",
            "SPAT",
            "TOKENIZERS_PARALLELISM",
            "TOKEN_TTL",
            "PASSWORD_MIN_LENGTH",
            "KEY_FILE",
            "AWS_ACCESS_KEY_ID",
            "OAUTH_TOKEN_URL",
            "SSH_PUBLIC_KEY",
            "CACHE_KEY",
            "FOREIGN_KEY_CHECKS",
            "PASSENGER_APP_ENV",
            "AUTH0_DOMAIN",
            "COOKIE_DOMAIN",
            "VERSION",
            "DATABASE_URL",
            "KEYCLOAK_URL",
            "PINNED",
            "OPTIONS",
            "AUTHOR",
            "",
            "_",
            "PASSWORDLESS_LOGIN",
            "DSNAME",
            "TOPIC",
            "SPINNER",
            "PRIVATE_IP",
            "SECRET_NAME",
            "HOTKEYBAR",
            "MAPPING",
            "DONKEY",
            "PASSPORT",
        ] {
            assert!(!holds_a_secret(name), "{name}");
        }
    }
}
