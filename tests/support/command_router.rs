//! A router of one's own, steered by a script: here HAProxy behind its runtime API.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::haproxy::Haproxy;
use super::router::RealRouter;

/// A script that steers a running HAProxy; it stops with the test.
pub(crate) struct CommandRouter {
    haproxy: Haproxy,
    script: PathBuf,
}

const SCRIPT: &str = r#"#!/bin/sh
# set GREEN BLUE (percentages, whole) | get | retire SIDE SECONDS
ask() { echo "$1" | socat -t5 stdio "SOCKET"; }
weight() { ask "get weight shop/$1" | sed -n 's/^\([0-9]*\) .*/\1/p'; }
case "$1" in
  set)
    said=$(ask "set server shop/blue weight $3; set server shop/green weight $2" | tr -d '\n')
    if [ -n "$said" ]; then echo "$said" >&2; exit 1; fi ;;
  get)
    green=$(weight green); blue=$(weight blue)
    if [ -z "$green" ] || [ -z "$blue" ]; then echo 'the router does not answer' >&2; exit 3; fi
    echo "{\"green\": $(awk "BEGIN { print $green / ($green + $blue) }")}" ;;
  # The same for a release that goes the other way.
  reversed) "$0" get | sed 's/.*: \(.*\)}/\1/' | awk '{ print "{\"green\": " 1 - $1 "}" }' ;;
  other) if [ "$2" = blue ]; then "$0" retire green "$3"; else "$0" retire blue "$3"; fi ;;
  retire)
    until=$(($(date +%s) + ${3%%.*} + 1))
    # The fifth column of its row: sessions under way.
    while [ "$(ask 'show stat shop 4 -1' | awk -F, -v s="$2" '$2 == s { print $5 }')" != 0 ] && [ "$(date +%s)" -lt "$until" ]; do
      sleep 0.05
    done
    ask "shutdown sessions server shop/$2" ;;
  *) echo "unknown: $1" >&2; exit 64 ;;
esac
"#;

impl CommandRouter {
    /// Starts one that gives blue everything.
    pub(crate) fn start(folder: &Path, blue: u16, green: u16) -> Self {
        let haproxy = Haproxy::start(folder, blue, green, "");
        let script = folder.join("route.sh");
        std::fs::write(&script, SCRIPT.replace("SOCKET", &haproxy.socket.display().to_string())).unwrap();
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
        Self { haproxy, script }
    }
}

impl RealRouter for CommandRouter {
    fn url(&self) -> String {
        self.haproxy.url()
    }

    fn router(&self, _: u16, _: u16) -> String {
        let script = self.script.display();
        format!(
            "{{kind: command, target: edge, entry: \"{}\", with: {{set: [{script}, set, \"{{green}}\", \"{{blue}}\"], get: [{script}, get], \
             retire: [{script}, retire, \"{{side}}\", \"{{drain}}\"], step: 1%}}}}",
            self.url()
        )
    }

    fn held(&self) -> String {
        self.haproxy.held()
    }

    fn halt(&mut self) {
        self.haproxy.halt();
    }

    fn begin_again(&mut self) {
        self.haproxy.begin_again();
    }

    fn lead_elsewhere(&self, port: u16) {
        self.haproxy.lead_elsewhere(port);
    }
}
