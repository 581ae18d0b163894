//! The binary as users see it, without an engine.
#![allow(clippy::unwrap_used)] // helpers are not seen as tests
use std::process::{Command, Output};

fn sypctl(args: &[&str]) -> Output {
    command(args).output().unwrap()
}

fn command(args: &[&str]) -> Command {
    let dir = std::env::temp_dir().join(format!("syp-cli-test-{}", std::process::id()));
    let mut c = Command::new(env!("CARGO_BIN_EXE_sypctl"));
    c.args(args)
        .env("SYP_DATA_DIR", dir)
        .env_remove("SYPCTL_SERVER")
        .env_remove("SYPCTL_TOKEN")
        .env_remove("SYP_SERVER")
        .env_remove("SYP_TOKEN")
        .env_remove("SYPCTL_OUTPUT");
    c
}

fn out(o: &Output) -> String {
    String::from_utf8(o.stdout.clone()).unwrap()
}

fn err(o: &Output) -> String {
    String::from_utf8(o.stderr.clone()).unwrap()
}

#[test]
fn help_and_version_need_no_engine() {
    let o = sypctl(&["--help"]);
    assert!(o.status.success() && out(&o).contains("Exit codes:"));
    let o = sypctl(&["up", "--help"]);
    assert!(o.status.success() && out(&o).contains("Examples:"));
    let o = sypctl(&["version"]);
    assert_eq!((o.status.code(), out(&o)), (Some(0), format!("sypctl {}\n", env!("CARGO_PKG_VERSION"))));
    let o = sypctl(&["version", "-o", "json"]);
    let v: serde_json::Value = serde_json::from_str(&out(&o)).unwrap();
    assert_eq!((v["sypctl"].as_str(), v["engine"].is_null()), (Some(env!("CARGO_PKG_VERSION")), true));
}

#[test]
fn explain_has_pages_and_says_what_is_near() {
    let o = sypctl(&["explain", "image-not-found"]);
    assert!(o.status.success() && out(&o).starts_with("IMAGE_NOT_FOUND: "), "{}", out(&o));
    let o = sypctl(&["explain", "IMAGE_LOST"]);
    assert_eq!(o.status.code(), Some(5));
    // stderr is piped here
    let v: serde_json::Value = serde_json::from_str(&err(&o)).unwrap();
    assert_eq!(
        (v["error"]["message"].as_str(), v["error"]["reason"].as_str()),
        (Some("no reason 'IMAGE_LOST'"), Some("NOT_FOUND"))
    );
    // the nearest first; which others are near changes with the list
    let next = v["error"]["next"].as_str().unwrap();
    assert!(
        next.starts_with("perhaps IMAGE_NOT_FOUND, ")
            && next.ends_with("'sypctl explain' lists every reason"),
        "{next}"
    );
}

#[test]
fn wrong_usage_is_exit_code_2() {
    for args in [
        &["nope"][..],
        &["up", "Shop", "--image", "x"],
        &["down"],
        &["down", "--all"],
        &["ls", "--server", "http://example.com"],
        &["server", "run", "--listen", "0.0.0.0:7443"],
    ] {
        let o = sypctl(args);
        assert_eq!(o.status.code(), Some(2), "{args:?}: {}", err(&o));
        assert!(out(&o).is_empty());
        let v: serde_json::Value = serde_json::from_str(&err(&o)).unwrap();
        assert_eq!(v["error"]["exitCode"].as_i64(), Some(2), "{args:?}: {v}");
    }
}

#[test]
fn without_an_engine_status_is_11_and_stop_is_fine() {
    let o = sypctl(&["server", "status", "-o", "json"]);
    assert_eq!(o.status.code(), Some(11));
    let v: serde_json::Value = serde_json::from_str(&err(&o)).unwrap();
    assert_eq!(
        (v["error"]["reason"].as_str(), v["error"]["exitCode"].as_i64()),
        (Some("ENGINE_NOT_RUNNING"), Some(11))
    );
    assert_eq!(sypctl(&["server", "stop"]).status.code(), Some(0));
}

#[test]
fn a_server_without_a_login_is_exit_code_4() {
    let o = sypctl(&["ls", "--server", "http://127.0.0.1:9"]);
    assert_eq!(o.status.code(), Some(4), "{}", err(&o));
    assert!(err(&o).contains("sypctl login"));
}

#[test]
fn a_server_and_a_token_come_from_the_environment_under_the_documented_and_the_earlier_names() {
    for (server, token) in [("SYPCTL_SERVER", "SYPCTL_TOKEN"), ("SYP_SERVER", "SYP_TOKEN")] {
        let run = |token: Option<&str>| {
            let mut c = command(&["ls", "--timeout", "5s"]);
            c.env(server, "http://127.0.0.1:9");
            if let Some(name) = token {
                c.env(name, "x");
            }
            c.output().unwrap()
        };
        let o = run(None);
        assert_eq!(o.status.code(), Some(4), "{server}: {}", err(&o));
        let o = run(Some(token));
        assert_eq!(o.status.code(), Some(11), "{token}: {}", err(&o));
    }
}

#[test]
fn completion_is_for_the_shell() {
    let o = sypctl(&["completion", "bash"]);
    assert!(o.status.success() && out(&o).contains("_sypctl"));
}
