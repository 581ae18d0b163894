//! `sypctl login`: by a code on any device, by a browser on this machine.
use crate::{APP, says};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::{
    io::{BufRead, BufReader},
    path::Path,
};
use syp_tests::{
    oidc::{Browser, Issuer, Server, end, ready},
    product::{Said, get},
};

/// A login that runs: what it says on stderr, a line at a time.
struct Login {
    child: std::process::Child,
    lines: BufReader<std::process::ChildStderr>,
}

// === impl Login ===

impl Login {
    fn start(s: &Server, home: &Path, args: &[&str]) -> Result<Self> {
        let mut child = s.remote(home, None, args).stderr(std::process::Stdio::piped()).spawn()?;
        let lines = BufReader::new(child.stderr.take().context("stderr")?);
        Ok(Self { child, lines })
    }

    /// The rest of the first line that begins so.
    fn line(&mut self, begin: &str) -> Result<String> {
        let mut all = String::new();
        loop {
            let from = all.len();
            ensure!(self.lines.read_line(&mut all)? > 0, "no line '{begin}': {all}");
            if let Some(rest) = all[from..].trim_end().strip_prefix(begin) {
                return Ok(rest.to_owned());
            }
        }
    }

    fn ends_well(mut self) -> Result<()> {
        let mut rest = String::new();
        std::io::Read::read_to_string(&mut self.lines, &mut rest)?;
        let status = self.child.wait()?;
        ensure!(status.success(), "the login ended with {status}: {rest}");
        Ok(())
    }
}

impl Drop for Login {
    fn drop(&mut self) {
        let _ = end(&mut self.child);
    }
}

/// What somebody who logged in says with a command.
fn logged_in(s: &Server, home: &Path, code: i32, args: &[&str]) -> Result<Said> {
    let o = s.remote(home, None, args).output()?;
    let said = Said {
        code: o.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&o.stdout).into_owned(),
        err: String::from_utf8_lossy(&o.stderr).into_owned(),
    };
    ensure!(said.code == code, "'sypctl {}' ended with {}: {}", args.join(" "), said.code, said.err);
    Ok(said)
}

/// A provider whose audiences are URIs, as `resource` wants them, and whose tokens end soon.
fn short_lived(sypctl: &Path, ttl: &str) -> Result<(Issuer, Server)> {
    // more than the client's margin for renewals, unless a test wants that it renews at once
    let p = Issuer::start(&[("ACCESS_TTL", ttl), ("DEFAULT_RESOURCE", "urn:aud:syp-api")])?;
    let s = Server::start(sypctl, &p.url(), &["--audience", APP, "--admin", "user:alice@example.com"])?;
    Ok((p, s))
}

#[test]
fn a_device_login_gets_in_renews_itself_and_is_forgotten() -> Result<()> {
    let Some(sypctl) = ready() else { return Ok(()) };
    // below the margin for renewals: every command renews
    let (p, s) = short_lived(&sypctl, "5")?;
    let home = tempfile::tempdir()?;
    let home = home.path();
    says(&logged_in(&s, home, 4, &["ls"])?, "TOKEN_MISSING")?;
    let app = format!("urn:aud:{APP}");
    let mut login =
        Login::start(&s, home, &["login", "--audience", "urn:aud:syp-api", "--app-audience", &app])?;
    let direct = login.line("or open  ")?;
    Browser::new()?.approve(&direct, "u-alice")?;
    login.ends_well()?;
    let kept = home.join("login.json");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&kept)?.permissions());
    ensure!(mode & 0o077 == 0, "login.json is {mode:o}");
    let first = std::fs::read_to_string(&kept)?;
    let me = logged_in(&s, home, 0, &["whoami", "-o", "json"])?;
    let me: Value = serde_json::from_str(&me.out)?;
    ensure!(me["email"] == "alice@example.com" && me["issuer"] == p.url().as_str(), "whoami: {me}");
    ensure!(me["role"] == "ADMIN" || me["role"] == "ROLE_ADMIN", "whoami: {me}");
    logged_in(&s, home, 0, &["ls"])?;
    ensure!(std::fs::read_to_string(&kept)? != first, "the token was not renewed");
    // its token for instances is another one, and both are refused at the other plane
    logged_in(
        &s,
        home,
        0,
        &[
            "up",
            "shop",
            "--image",
            "syp-test/hello",
            "--port",
            "8080",
            "--yes",
            "--allow",
            "user:alice@example.com",
        ],
    )?;
    let token = logged_in(&s, home, 0, &["token", "shop"])?.out;
    let url = s.engine.endpoint("shop")?;
    ensure!(get(&url, Some(token.trim()), &[])?.0 == 200, "the login's token at the instance");
    says(&s.ends_with(4, token.trim(), &["ls"])?, "TOKEN_AUDIENCE")?;
    let curl = logged_in(&s, home, 0, &["curl", "shop", "/"])?;
    ensure!(curl.out.to_lowercase().contains("hello"), "curl: {}", curl.out);
    logged_in(&s, home, 0, &["down", "shop", "--yes"])?;
    // while the provider is away the login can't be renewed, and is kept
    let port = p.stop()?;
    says(&logged_in(&s, home, 11, &["ls"])?, "ISSUER_UNREACHABLE")?;
    // one that knows nothing of it ends it, with words
    let _other = Issuer::start_at(port, &[])?;
    let ended = logged_in(&s, home, 4, &["ls"])?;
    says(&ended, "TOKEN_EXPIRED")?;
    ensure!(ended.err.contains("sypctl login"), "no word of what to do: {}", ended.err);
    logged_in(&s, home, 0, &["logout"])?;
    ensure!(!kept.exists(), "login.json is still there");
    says(&logged_in(&s, home, 4, &["ls"])?, "TOKEN_MISSING").map(drop)
}

#[test]
fn a_browser_login_gets_in_and_answers_of_others_are_no_answer() -> Result<()> {
    let Some(sypctl) = ready() else { return Ok(()) };
    let (p, s) = short_lived(&sypctl, "300")?;
    let home = tempfile::tempdir()?;
    let home = home.path();
    let mut login = Login::start(&s, home, &["login", "--browser", "--audience", "urn:aud:syp-api"])?;
    let page = login.line("Open ")?;
    ensure!(page.starts_with(&p.url()), "the page is not the provider's: {page}");
    let back = page.split("redirect_uri=http%3A%2F%2F127.0.0.1%3A").nth(1).context("redirect")?;
    let port = back.split('%').next().context("port")?;
    // somebody else's code does not end it
    let forged = get(&format!("http://127.0.0.1:{port}/callback?code=x&state=forged"), None, &[])?;
    ensure!(forged.0 == 404, "a forged answer got {}", forged.0);
    let (_, text) = Browser::new()?.open(&format!("{page}&login_hint=bob@example.com"), &[])?;
    ensure!(text.contains("logged in"), "the page says: {text}");
    login.ends_well()?;
    let me = logged_in(&s, home, 0, &["whoami"])?;
    ensure!(me.out.contains("bob@example.com"), "whoami: {}", me.out);
    says(&logged_in(&s, home, 6, &["access", "show", "-", "--plane", "control"])?, "PERMISSION_DENIED")?;
    // somebody says no
    let mut login = Login::start(&s, home, &["login", "--browser", "--audience", "urn:aud:syp-api"])?;
    let page = login.line("Open ")?;
    let browser = Browser::new()?;
    let (form, _) = browser.open(&page, &[])?;
    browser.open(&form, &[("deny", "1")])?;
    ensure!(login.ends_well().is_err(), "a denied login succeeded");
    // and the login of before is still there
    logged_in(&s, home, 0, &["whoami"]).map(drop)
}
