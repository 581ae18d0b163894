//! Where the engine and the gates listen, and whom they trust there.
use crate::{API, APP, says};
use anyhow::{Result, ensure};
use syp_tests::{
    certificate::Certificate,
    oidc::{ALICE, Issuer, Server, ready},
    product::{Said, get, sh},
};

#[test]
fn off_loopback_without_tls_is_refused_before_anything_is_made() -> Result<()> {
    let Some(sypctl) = ready() else { return Ok(()) };
    let dir = tempfile::tempdir()?;
    let data = dir.path().join("data");
    for address in ["0.0.0.0:0", "192.0.2.1:7443", "[::]:0"] {
        let o = std::process::Command::new(&sypctl)
            .args(["server", "run", "--listen", address])
            .env("SYP_DATA_DIR", &data)
            .output()?;
        let err = String::from_utf8_lossy(&o.stderr);
        ensure!(o.status.code() == Some(2) && err.contains("TLS"), "{address}: {err}");
        ensure!(!data.exists(), "{address}: something was made");
    }
    let o = std::process::Command::new(&sypctl)
        .args(["server", "run", "--audience", API])
        .env("SYP_DATA_DIR", &data)
        .output()?;
    ensure!(!o.status.success() && !data.exists(), "one audience for both planes");
    // nor does a client send a token there
    let o = std::process::Command::new(&sypctl)
        .args(["--server", "http://192.0.2.1:7443", "ls"])
        .env("SYP_DATA_DIR", &data)
        .env("SYP_TOKEN", "x")
        .output()?;
    ensure!(o.status.code() == Some(2), "a token in clear: {}", String::from_utf8_lossy(&o.stderr));
    Ok(())
}

#[test]
fn loopback_without_tls_serves_tokens_of_both_issuers() -> Result<()> {
    let Some(sypctl) = ready() else { return Ok(()) };
    let p = Issuer::start(&[])?;
    let s = Server::listen(
        &sypctl,
        "127.0.0.1",
        false,
        &["--issuer", &p.url(), "--admin", "user:alice@example.com"],
    )?;
    s.ends_with(0, &p.token(&ALICE, API)?, &["ls"])?;
    let local = s.engine.ok(&["token", "syp-api"])?;
    s.ends_with(0, local.trim(), &["ls"])?;
    // the first token is for the socket's own user only
    let said = s.ends_with(4, "", &["whoami"])?;
    says(&said, "TOKEN_MISSING")
}

/// A network of Docker's, for its address on this host.
struct Bridge(String);

// === impl Bridge ===

impl Bridge {
    fn new() -> Result<Self> {
        let name = format!("syp-test-oidc-{}", std::process::id());
        sh("docker", &["network", "create", &name])?;
        Ok(Self(name))
    }

    fn address(&self) -> Result<String> {
        let out = sh("docker", &["network", "inspect", &self.0, "-f", "{{(index .IPAM.Config 0).Gateway}}"])?;
        Ok(out.trim().to_owned())
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        let _ = sh("docker", &["network", "rm", &self.0]);
    }
}

#[test]
fn off_loopback_the_built_in_issuer_is_nobody() -> Result<()> {
    let Some(sypctl) = ready() else { return Ok(()) };
    let p = Issuer::start(&[])?;
    // this host's end of a bridge of Docker's: not loopback, and nobody else's network either
    let bridge = Bridge::new()?;
    let address = bridge.address()?;
    let s = Server::listen(
        &sypctl,
        &address,
        true,
        &["--issuer", &p.url(), "--admin", "user:alice@example.com", "--audience", APP],
    )?;
    s.ends_with(0, &p.token(&ALICE, API)?, &["ls"])?;
    let local = s.engine.ok(&["token", "syp-api"])?;
    says(&s.ends_with(4, local.trim(), &["ls"])?, "TOKEN_ISSUER")?;
    // over the socket it is as good as ever
    s.engine.ok(&["ls"])?;
    // the same at an instance: off loopback only the provider counts, and TLS is asked for
    let at = format!("{address}:0");
    let up = |more: &[&str]| -> Result<Said> {
        let all = ["up", "out", "--image", "syp-test/hello", "--port", "8080", "--yes", "--publish", &at];
        s.engine.run(&[&all[..], &["--allow", "user:alice@example.com"], more].concat())
    };
    let clear = up(&[])?;
    ensure!(clear.code == 2 && clear.err.contains("certificate"), "published in clear: {}", clear.err);
    let tls = Certificate::of(&address)?;
    let up = up(&["--tls-cert", &tls.file("cert.pem"), "--tls-key", &tls.file("key.pem")])?;
    ensure!(up.code == 0, "up: {}", up.err);
    let shown = s.engine.json(&["show", "out"])?["conditions"].to_string();
    ensure!(shown.contains("AuthEnforced"), "the door was tried over TLS: {shown}");
    let url = s.engine.endpoint("out")?;
    let ca = tls.file("ca.pem");
    let status = |t: &str| Ok::<_, anyhow::Error>(get(&url, Some(t), &["--cacert", &ca])?.0);
    ensure!(status(&p.token(&ALICE, APP)?)? == 200, "the provider's token");
    ensure!(
        status(&s.engine.token("out", Some("user:alice@example.com"))?)? == 401,
        "a local token off loopback"
    );
    s.engine.down("out")
}
