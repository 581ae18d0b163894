//! The engine as a service of systemd: where its parts lie, and its unit. Pure.
use crate::server::Flags;
use std::path::{Path, PathBuf};

/// Name of the unit, the user and the directories.
pub const NAME: &str = "sypctl";

/// What the unit is made of.
#[derive(Clone, Debug, Default)]
pub struct Unit {
    /// Group that may use the Docker engine's socket; none when everybody may.
    pub docker_group: Option<String>,
    /// What the engine is told. TLS files are handed over as credentials, so that the service's user need not be able to read
    /// them.
    pub flags: Flags,
}

/// Where everything lies; below another root in tests.
#[derive(Clone, Debug)]
pub struct Places {
    /// The binaries, and the list of what was installed.
    pub lib: PathBuf,
    /// The command.
    pub command: PathBuf,
    /// The unit.
    pub unit: PathBuf,
    /// The engine's data directory, and home of its user.
    pub data: PathBuf,
}

// === impl Places ===

impl Places {
    /// Below a root.
    pub fn below(root: &Path) -> Self {
        Self {
            lib: root.join("usr/local/lib").join(NAME),
            command: root.join("usr/local/bin").join(NAME),
            unit: root.join("etc/systemd/system").join(format!("{NAME}.service")),
            data: root.join("var/lib").join(NAME),
        }
    }
}

// === impl Unit ===

impl Unit {
    /// The unit file.
    pub fn text(&self, places: &Places) -> String {
        let mut command =
            vec![places.lib.join("sypctl").display().to_string(), "server".into(), "run".into()];
        let mut add = |flag: &str, value: String| command.extend([flag.to_owned(), value]);
        add("--data-dir", places.data.display().to_string());
        let f = &self.flags;
        if let Some(a) = f.listen {
            add("--listen", a.to_string());
        }
        if let Some(a) = f.metrics_listen {
            add("--metrics-listen", a.to_string());
        }
        f.issuer.iter().for_each(|i| add("--issuer", i.clone()));
        f.audience.iter().for_each(|a| add("--audience", a.clone()));
        f.admin.iter().for_each(|a| add("--admin", a.clone()));
        let mut command: Vec<_> = command.iter().map(|w| quoted(w)).collect();
        let mut more = String::new();
        let ca = f.issuer_ca.as_ref().map(|ca| ("--issuer-ca", "issuer-ca.pem", ca));
        let tls = f.tls().map(|(c, k)| [("--tls-cert", "tls.crt", c), ("--tls-key", "tls.key", k)]);
        for (flag, name, file) in tls.into_iter().flatten().chain(ca) {
            // %d: where systemd puts what it loads
            command.extend([flag.to_owned(), format!("%d/{name}")]);
            more += &format!("LoadCredential={name}:{}\n", file.display().to_string().replace('%', "%%"));
        }
        if let Some(g) = &self.docker_group {
            more += &format!("SupplementaryGroups={g}\n");
        }
        format!(
            "\
# made by 'sypctl server install'; 'sypctl server uninstall' removes it
[Unit]
Description=Serve Yourself Private engine
After=network-online.target docker.service
Wants=network-online.target

[Service]
Type=notify
ExecStart={}
User={NAME}
Group={NAME}
StateDirectory={NAME}
StateDirectoryMode=0700
Environment=HOME={}
UMask=0077
Restart=on-failure
RestartSec=2
# an engine that is told to stop finishes to its next record
TimeoutStopSec=60
KillMode=mixed
LimitNOFILE=65536
{more}
{HARDENING}
[Install]
WantedBy=multi-user.target
",
            command.join(" "),
            places.data.display(),
        )
    }
}

/// What an engine that talks to a socket, to gates and to issuers does not need. Files of secrets in /dev/shm have to outlive
/// the service, since what uses them goes on: hence no RemoveIPC and no PrivateIPC.
const HARDENING: &str = "\
NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
SystemCallErrorNumber=EPERM
RemoveIPC=no
ReadWritePaths=/dev/shm
";

/// A word of ExecStart.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@,".contains(c);
    let escaped = word.replace('%', "%%").replace('$', "$$");
    if !word.is_empty() && word.chars().all(plain) {
        return escaped;
    }
    format!("\"{}\"", escaped.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_the_command_line_stay_what_they_are() {
        assert_eq!(quoted("--admin"), "--admin");
        assert_eq!(quoted("claim:a=b c"), "\"claim:a=b c\"");
        assert_eq!(quoted("50%$x\"\\"), "\"50%%$$x\\\"\\\\\"");
        assert_eq!(quoted(""), "\"\"");
    }

    #[test]
    fn the_unit_has_what_was_asked_for() {
        let flags = Flags {
            listen: "127.0.0.1:7443".parse().ok(),
            tls_cert: Some("/etc/c%.pem".into()),
            tls_key: Some("/etc/k.pem".into()),
            issuer: vec!["https://login.example.com/a b".into()],
            issuer_ca: Some("/etc/ca.pem".into()),
            admin: vec!["group:sre".into()],
            ..Default::default()
        };
        let unit = Unit { docker_group: Some("docker".into()), flags };
        let text = unit.text(&Places::below(Path::new("/")));
        for line in [
            "ExecStart=/usr/local/lib/sypctl/sypctl server run --data-dir /var/lib/sypctl --listen 127.0.0.1:7443 --issuer \"https://login.example.com/a b\" --admin group:sre --tls-cert %d/tls.crt --tls-key %d/tls.key --issuer-ca %d/issuer-ca.pem",
            "LoadCredential=issuer-ca.pem:/etc/ca.pem",
            "LoadCredential=tls.crt:/etc/c%%.pem",
            "SupplementaryGroups=docker",
            "User=sypctl",
            "CapabilityBoundingSet=",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
    }
}
