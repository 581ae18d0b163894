//! Wrong words on the command line.
use super::Expected;
use anyhow::Result;
use std::{fs, path::Path};

const USAGE: &str = "INVALID_ARGUMENT";

/// Input as it is shown, its words, and what it gets.
pub fn table(dir: &Path) -> Result<Vec<(String, Vec<String>, Expected)>> {
    fs::write(dir.join("env"), "A=1\nB\n")?;
    fs::write(dir.join("word"), "hello\n")?;
    fs::write(dir.join("empty"), "")?;
    let row = |&(words, code, reason, says): &(&str, i32, &'static str, &'static str)| {
        let args = words.split_whitespace().map(|w| {
            let w = w.replace("DIR", &dir.display().to_string());
            // a word that is empty, or has a space
            if w == "''" {
                String::new()
            } else {
                w.replace('_', if w.contains("SPACE") { " " } else { "_" }).replace("SPACE", "x")
            }
        });
        (format!("sypctl {}", words.replace("SPACE_", "x ")), args.collect(), (code, reason, says))
    };
    Ok(ROWS.iter().chain(UP).map(row).collect())
}

const ROWS: &[(&str, i32, &str, &str)] = &[
    ("frobnicate", 2, USAGE, "no command 'frobnicate'"),
    ("shwo shop", 2, USAGE, "no command 'shwo'"),
    ("show", 2, USAGE, "needs <NAME>"),
    ("show shop other", 2, USAGE, "no further word"),
    ("op", 2, USAGE, "needs a command"),
    ("show nope", 5, "NOT_FOUND", "nope does not exist"),
    ("show shop@zz", 2, USAGE, "uid of an incarnation"),
    ("show projects/x/instances", 2, USAGE, "projects/{project}/instances/{name}"),
    ("ls -o xml", 2, USAGE, "one of table, json, yaml, name"),
    ("ls --state gone", 2, USAGE, "one of pending"),
    ("ls -l team", 2, USAGE, "NAME=VALUE"),
    ("ls --project X_y", 2, USAGE, "projects have"),
    ("ls --timeout soon", 2, USAGE, "length of time"),
    ("ls --server ftp://x", 2, USAGE, "https://host:port"),
    ("ls --server http://example.com", 2, USAGE, "in clear"),
    ("ls --server https://127.0.0.1:1", 4, "TOKEN_MISSING", "not logged in"),
    ("ls --data-dir /proc/none", 11, "ENGINE_START_FAILED", "/proc/none"),
    ("down", 2, USAGE, "needs <NAMES>"),
    ("down --all", 2, USAGE, "--yes"),
    ("down shop --all", 2, USAGE, "cannot be used with"),
    ("down nope --yes", 5, "NOT_FOUND", "nope does not exist"),
    ("drain nope --yes", 5, "NOT_FOUND", "nope does not exist"),
    ("set shop", 2, USAGE, "say what to change"),
    ("set shop --replicas 0", 2, USAGE, "1 to 64 replicas"),
    ("set shop --env A=1 --etag old --yes", 7, "ETAG_MISMATCH", "changed meanwhile"),
    ("scale shop --replicas many", 2, USAGE, "1 to 64 replicas"),
    ("rollback shop shop-9 --yes", 5, "REVISION_NOT_FOUND", "shop-9"),
    ("transition shop --to gone", 2, USAGE, "one of serving, draining, destroyed"),
    ("transition shop --to draining --if-state draining --yes", 6, "STATE_DIFFERS", "it is SERVING"),
    ("wait shop --for state=sering", 2, USAGE, "state=serving"),
    ("wait shop --for state=draining --timeout 10s", 8, "DEADLINE_EXCEEDED", "SERVING"),
    ("op show 0123456789abcdef0123456789abcdef-7", 5, "NOT_FOUND", "does not exist"),
    ("op cancel shop", 6, "OPERATION_DONE", "over already"),
    ("logs shop --tail 0", 2, USAGE, "1 or more"),
    ("logs shop --since yesterday", 2, USAGE, "length of time"),
    ("logs shop --replica 7", 2, USAGE, "no replica '7'"),
    ("metrics shop --step 1ms", 2, USAGE, "step"),
    ("cost --by colour", 2, USAGE, "instance, day, revision or label:KEY"),
    ("cost --since 1h", 2, USAGE, "needs --by"),
    ("curl shop path", 2, USAGE, "begins with /"),
    ("token create shop --name ci", 2, USAGE, "needs --ttl"),
    ("token create shop --name ci --ttl 10000d", 2, USAGE, "365d"),
    ("token create shop --name '' --ttl 1d", 2, USAGE, "1 to 63 characters"),
    ("token revoke 0123", 5, "NOT_FOUND", "tokens/0123 does not exist"),
    ("access allow shop bob", 2, USAGE, "user:ADDRESS"),
    ("access allow shop team:x", 2, USAGE, "'team:' is not known"),
    ("access test shop --as bob", 2, USAGE, "user:ADDRESS"),
    ("access test shop --claims DIR/none", 2, USAGE, "No such file"),
    ("access test shop --claims DIR/word", 2, USAGE, "JSON object"),
    ("tariff set", 2, USAGE, "--per-kwh"),
    ("tariff set --per-kwh -1", 2, USAGE, "0 or more"),
    ("tariff set --per-vcpu-hour 1", 2, USAGE, "name the target"),
    ("tariff set docker --per-vcpu-hour 1 --per-gib-hour 1", 2, USAGE, "without a target"),
    ("tariff set k8s:prod --per-kwh 1", 2, USAGE, "leave the target away"),
    ("tariff set k8s:prod --per-vcpu-hour 1", 2, USAGE, "per_gib_hour"),
    ("tariff set k8s:prod --per-vcpu-hour -1 --per-gib-hour 1", 2, USAGE, "0 or more"),
    ("tariff set --per-kwh cheap", 2, USAGE, "decimal number"),
    ("provider check mars", 2, "TARGET_UNKNOWN", "no target 'mars'"),
    ("provider check --replicas 0", 2, USAGE, "1 to"),
    ("gate push syp-gate", 2, USAGE, "the registry is missing"),
    ("gate push https://registry.example.com/gate", 2, USAGE, "has no 'https://'"),
    ("gate push registry.example.com/gate@sha256:00", 2, USAGE, "the digest is what comes out"),
    ("gate push registry.example.com/Gate", 2, USAGE, "invalid reference format"),
    ("sweep --provider mars", 2, "TARGET_UNKNOWN", "no target 'mars'"),
    ("audit --outcome Fine", 2, USAGE, "PermissionDenied"),
    ("audit --method Frobnicate", 2, USAGE, "SetAccessPolicy"),
    ("audit --verify zz", 2, USAGE, "number and hash"),
    ("explain IMAGE_LOST", 5, "NOT_FOUND", "no reason 'IMAGE_LOST'"),
    ("graph shop --format png", 2, USAGE, "one of text, dot, mermaid"),
    ("completion tcsh", 2, USAGE, "one of bash"),
    ("man --dir /proc/none", 1, "LOCAL_IO", "/proc/none"),
    ("login --issuer nonsense", 2, USAGE, "the issuer's URL"),
    ("server run --listen nonsense", 2, USAGE, "an IP address and a port"),
    ("server run --listen 0.0.0.0:7443", 2, USAGE, "TLS is required"),
    ("server run --audience syp-api", 2, USAGE, "control plane's own"),
    ("server run --tls-cert DIR/env", 2, USAGE, "needs --tls-key"),
];

const UP: &[(&str, i32, &str, &str)] = &[
    ("up", 2, USAGE, "needs --image <IMAGE>, <NAME>"),
    ("up Shop --image x --port 80", 2, USAGE, "lower-case letters"),
    ("up a --image x --prot 80", 2, USAGE, "no flag '--prot'"),
    ("up a --image x --port 0", 2, USAGE, "a port from 1 to 65534"),
    ("up a --image x --port eighty", 2, USAGE, "a port from 1 to 65534"),
    ("up a --image syp-test/hello --port 49150 --yes", 2, USAGE, "the product's own"),
    ("up a --image '' --port 80 --yes", 2, USAGE, "can't be an image"),
    ("up a --image SPACE_y --port 80 --yes", 2, USAGE, "can't be an image"),
    ("up a --image x/UPPER --port 80 --yes", 6, "PROVIDER_REFUSED", "must be lowercase"),
    ("up a --image localhost:1/none --port 80 --yes", 1, "IMAGE_NOT_FOUND", "localhost:1/none"),
    ("up a --image syp-test/hello --port 80 --on mars --yes", 2, "TARGET_UNKNOWN", "no target 'mars'"),
    ("up shop --image syp-test/hello --port 8081 --yes", 7, "NAME_IN_USE", "shop"),
    ("up a --image x --port 80 --memory 5x", 2, USAGE, "256Mi"),
    (
        "up a --image syp-test/hello --port 80 --memory 60000Gi --yes",
        1,
        "RESOURCES_EXCEED_HOST",
        "the Docker host has",
    ),
    ("up a --image x --port 80 --cpu -1", 2, USAGE, "cores, such as"),
    ("up a --image x --port 80 --ttl soon", 2, USAGE, "length of time"),
    ("up a --image x --port 80 --ttl 0s --yes", 2, USAGE, "10 years"),
    ("up a --image x --port 80 --grace 2h --yes", 2, USAGE, "0s to 1h"),
    ("up a --image x --port 80 --allow alice", 2, USAGE, "user:ADDRESS"),
    ("up a --image x --port 80 --allow domain:a@b.c", 2, USAGE, "domain:example.com"),
    ("up a --image x --port 80 --env A", 2, USAGE, "NAME=VALUE"),
    ("up a --image x --port 80 --env SPACE_B=1", 2, USAGE, "can't be the name of a variable"),
    ("up a --image x --port 80 --env-file DIR/none", 2, USAGE, "No such file"),
    ("up a --image x --port 80 --env-file DIR/env", 2, USAGE, "line 2"),
    ("up a --image x --port 80 --secret P=hunter2", 2, USAGE, "can be read by others"),
    ("up a --image x --port 80 --secret P=@DIR/none --yes", 2, USAGE, "No such file"),
    ("up a --image x --port 80 --secret P=@DIR/empty --yes", 2, USAGE, "empty"),
    ("up a --image x --port 80 --secret-file rel=@DIR/env", 2, USAGE, "begins with /"),
    ("up a --image x --port 80 --budget 5", 2, USAGE, "5EUR/day:drain"),
    ("up a --image x --port 80 --budget 5USD/day:drain --yes", 2, USAGE, "in EUR"),
    ("up a --image x --port 80 --cors *", 2, USAGE, "not an origin"),
    ("up a --image x --port 80 --replicas 65", 2, USAGE, "1 to 64 replicas"),
    ("up a --image x --port 80 --publish example.com", 2, USAGE, "an IP address of this host"),
    ("up a --image x --port 80 --publish 0.0.0.0 --yes", 2, USAGE, "certificate and a key"),
    ("up a --image x --port 80 --tls-cert DIR/env", 2, USAGE, "needs --tls-key"),
    ("up a --image x --port 80 --probe healthz", 2, USAGE, "begins with /"),
    ("up a --image x --port 80 --label SPACE_b=c --yes", 2, USAGE, "can't be a key"),
    ("up a --image x --port 80 --protocol h9", 2, USAGE, "one of auto, http1, h2c"),
    ("up a --image x --port 80 --isolation none --egress none --yes", 2, USAGE, "choose one"),
];
