//! A certified OpenID Connect provider as the issuer, and an engine that trusts it: both real, both on loopback.
use crate::{
    certificate::Certificate,
    product::{Engine, Said, binary, pause, sh},
};
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use std::{
    fs::File,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    time::{Duration, Instant},
};

/// What the suites of the provider run with; `None`: something is missing, it was said what.
pub fn ready() -> Option<PathBuf> {
    let sypctl = binary()?;
    if std::env::var_os("SYP_TEST_OIDC_DIR").is_none() {
        println!("SKIPPED: no test issuer (SYP_TEST_OIDC_DIR is not set)");
        return None;
    }
    Some(sypctl)
}

/// A port of loopback that was free a moment ago, below those that the system gives to outgoing connections and to whoever asks for any:
/// a program takes a while to listen.
///
/// # Errors
/// There is none.
pub fn free_port() -> Result<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = std::process::id() * 61;
    for _ in 0..1_000 {
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 21_000 + u16::try_from((first + u32::from(n)) % 8_000)?;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    anyhow::bail!("no port is free")
}

/// Asks again until it is so.
///
/// # Errors
/// It does not become so in time, or the question fails.
pub fn until(what: &str, limit: Duration, mut asked: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + limit;
    while !asked()? {
        ensure!(Instant::now() < end, "not within {} s: {what}", limit.as_secs());
        pause(50);
    }
    Ok(())
}

/// Ends a process of ours by its id, gently first.
///
/// # Errors
/// It does not end.
pub fn end(child: &mut Child) -> Result<()> {
    if child.try_wait()?.is_some() {
        return Ok(());
    }
    let _ = sh("kill", &["-TERM", &child.id().to_string()]);
    let limit = Instant::now() + Duration::from_secs(25);
    while child.try_wait()?.is_none() {
        if Instant::now() > limit {
            child.kill()?;
        }
        pause(20);
    }
    Ok(())
}

/// The provider.
pub struct Issuer {
    child: Child,
    port: u16,
    _dir: tempfile::TempDir,
}

/// Someone a token is made for.
#[derive(Clone, Copy, Debug)]
pub struct Person {
    /// `sub`.
    pub sub: &'static str,
    /// `email`.
    pub email: &'static str,
    /// `email_verified`.
    pub verified: bool,
    /// `groups`.
    pub groups: &'static [&'static str],
    /// `dept`, a claim that only rules with `claim:` know.
    pub dept: &'static str,
}

/// In a group, of the right department.
pub const ALICE: Person = Person {
    sub: "u-alice",
    email: "alice@example.com",
    verified: true,
    groups: &["serving-users", "admins"],
    dept: "rd",
};
/// In a group.
pub const BOB: Person = Person {
    sub: "u-bob",
    email: "bob@example.com",
    verified: true,
    groups: &["serving-users"],
    dept: "ops",
};
/// Of the domain, in no group.
pub const CAROL: Person =
    Person { sub: "u-nogroups", email: "carol@example.com", verified: true, groups: &[], dept: "ops" };
/// A stranger.
pub const MALLORY: Person = Person {
    sub: "u-mallory",
    email: "mallory@example.net",
    verified: true,
    groups: &["outsiders"],
    dept: "ops",
};
/// Has Alice's address, but nobody verified it.
pub const NOT_ALICE: Person =
    Person { sub: "u-unverified", email: "alice@example.com", verified: false, groups: &[], dept: "ops" };

// === impl Issuer ===

impl Issuer {
    /// On a free port.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(env: &[(&str, &str)]) -> Result<Self> {
        Self::start_at(free_port()?, env)
    }

    /// On a port of the test's choice.
    ///
    /// # Errors
    /// It does not start.
    pub fn start_at(port: u16, env: &[(&str, &str)]) -> Result<Self> {
        let code = PathBuf::from(std::env::var_os("SYP_TEST_OIDC_DIR").context("SYP_TEST_OIDC_DIR")?);
        let node = std::env::var_os("SYP_TEST_NODE").unwrap_or_else(|| "node".into());
        let dir = tempfile::tempdir()?;
        let log = dir.path().join("log");
        let child = Command::new(node)
            .arg("server.mjs")
            .current_dir(code)
            .env("PORT", port.to_string())
            // longer than any test takes, unless it says something else
            .env("ACCESS_TTL", "3600")
            .envs(env.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log)?)
            .spawn()
            .context("node")?;
        let mut issuer = Self { child, port, _dir: dir };
        let end = Instant::now() + Duration::from_secs(120);
        while issuer.admin("state", &Value::Null).is_err() {
            let said = || std::fs::read_to_string(&log).unwrap_or_default();
            ensure!(issuer.child.try_wait()?.is_none(), "the test issuer ended: {}", said());
            ensure!(Instant::now() < end, "the test issuer does not answer: {}", said());
            pause(50);
        }
        Ok(issuer)
    }

    /// Its name.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// One of the calls for tests; with a body when there is one.
    ///
    /// # Errors
    /// It does not answer, or refuses.
    pub fn admin(&self, what: &str, body: &Value) -> Result<Value> {
        let url = format!("{}/admin/{what}", self.url());
        let text = body.to_string();
        let mut args = vec!["-sS", "-f", "-m", "10"];
        if !body.is_null() {
            args.extend(["-d", &text]);
        }
        args.push(&url);
        Ok(serde_json::from_str(&sh("curl", &args)?)?)
    }

    /// How often its keys were fetched, and how often its discovery document.
    ///
    /// # Errors
    /// It does not answer.
    pub fn fetches(&self) -> Result<(u64, u64)> {
        let s = self.admin("state", &Value::Null)?;
        let n = |what: &str| s["counts"][what].as_u64().context("no counters");
        Ok((n("jwks")?, n("discovery")?))
    }

    /// New keys from now on; are the old ones still published?
    ///
    /// # Errors
    /// It does not answer.
    pub fn rotate(&self, keep_old: bool) -> Result<()> {
        self.admin("rotate", &json!({ "keep_old": keep_old })).map(drop)
    }

    /// A fault of its keys, and of its discovery document too; `none` ends it.
    ///
    /// # Errors
    /// It does not answer.
    pub fn fault(&self, mode: &str) -> Result<()> {
        self.admin("fault", &json!({ "mode": mode, "all": true })).map(drop)
    }

    /// A token as the provider gives it to a machine.
    ///
    /// # Errors
    /// It gives none.
    pub fn machine_token(&self, client: &str, audience: &str, alg: &str) -> Result<String> {
        let (user, resource) =
            (format!("{client}:ci-secret"), format!("resource=urn:aud:{audience}?alg={alg}"));
        let url = format!("{}/token", self.url());
        let out = sh(
            "curl",
            &[
                "-sS",
                "-f",
                "-m",
                "10",
                "-u",
                &user,
                "-d",
                "grant_type=client_credentials",
                "--data-urlencode",
                &resource,
                &url,
            ],
        )?;
        let answer: Value = serde_json::from_str(&out)?;
        Ok(answer["access_token"].as_str().context("no token")?.to_owned())
    }

    /// A token of a person, signed by a real key.
    ///
    /// # Errors
    /// It gives none.
    pub fn token(&self, who: &Person, audience: &str) -> Result<String> {
        self.mint(who, audience, &json!({}), &json!({}), "ES256")
    }

    /// The same with claims and header fields put in (`null` takes a claim away).
    ///
    /// # Errors
    /// It gives none.
    pub fn mint(
        &self,
        who: &Person,
        audience: &str,
        claims: &Value,
        header: &Value,
        alg: &str,
    ) -> Result<String> {
        let mut all = json!({
            "sub": who.sub, "email": who.email, "email_verified": who.verified, "groups": who.groups,
            "dept": who.dept, "aud": audience,
        });
        let into = all.as_object_mut().context("claims")?;
        into.extend(claims.as_object().cloned().unwrap_or_default());
        let answer = self.admin("mint", &json!({ "alg": alg, "claims": all, "header": header }))?;
        Ok(answer["token"].as_str().context("no token")?.to_owned())
    }

    /// Ends it. Its port stays ours to start another one on.
    ///
    /// # Errors
    /// It does not end.
    pub fn stop(mut self) -> Result<u16> {
        end(&mut self.child)?;
        Ok(self.port)
    }
}

impl Drop for Issuer {
    fn drop(&mut self) {
        let _ = end(&mut self.child);
    }
}

/// An engine that runs in the foreground as its operator starts it, with TCP beside its socket.
pub struct Server {
    /// Its data directory, and commands over its socket.
    pub engine: Engine,
    child: Child,
    sypctl: PathBuf,
    url: String,
    tls: Option<Certificate>,
}

// === impl Server ===

impl Server {
    /// On loopback with TLS, trusting an issuer.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(sypctl: &Path, issuer: &str, args: &[&str]) -> Result<Self> {
        let mut all = vec!["--issuer", issuer];
        all.extend(args);
        Self::listen(sypctl, "127.0.0.1", true, &all)
    }

    /// On any address, with TLS or without.
    ///
    /// # Errors
    /// It does not start.
    pub fn listen(sypctl: &Path, address: &str, tls: bool, args: &[&str]) -> Result<Self> {
        let to = SocketAddr::new(address.parse()?, free_port()?);
        let tls = tls.then(|| Certificate::of(address)).transpose()?;
        let engine = Engine::new(sypctl)?;
        let child = run(sypctl, &engine, to, tls.as_ref(), args)?;
        let scheme = if tls.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://{to}");
        let mut server = Self { engine, child, sypctl: sypctl.into(), url, tls };
        server.answers()?;
        Ok(server)
    }

    /// Starts it again on the same data and address.
    ///
    /// # Errors
    /// It does not start.
    pub fn restart(&mut self, args: &[&str]) -> Result<()> {
        end(&mut self.child)?;
        let to = self.url.rsplit_once('/').context("address")?.1.parse()?;
        self.child = run(&self.sypctl, &self.engine, to, self.tls.as_ref(), args)?;
        self.answers()
    }

    fn answers(&mut self) -> Result<()> {
        let limit = Instant::now() + Duration::from_secs(120);
        while self.engine.run(&["server", "status"])?.code != 0 {
            if let Some(status) = self.child.try_wait()? {
                bail!("the engine ended with {status}: {}", self.log());
            }
            ensure!(Instant::now() < limit, "the engine does not answer: {}", self.log());
            pause(30);
        }
        Ok(())
    }

    /// Where it listens.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The file of the authority that it is trusted by.
    pub fn ca(&self) -> Option<String> {
        self.tls.as_ref().map(|t| t.file("ca.pem"))
    }

    /// What it said.
    pub fn log(&self) -> String {
        std::fs::read_to_string(log_of(&self.engine)).unwrap_or_default()
    }

    /// A command of somebody who reaches it over TCP.
    pub fn remote(&self, home: &Path, token: Option<&str>, args: &[&str]) -> Command {
        let mut c = Command::new(&self.sypctl);
        c.args(args).args(["--server", &self.url]).stdin(Stdio::null());
        c.args(self.ca().iter().flat_map(|ca| ["--ca-file", ca]));
        c.env("SYP_DATA_DIR", home).env_remove("SYP_TOKEN");
        if let Some(token) = token {
            c.env("SYP_TOKEN", token);
        }
        c
    }

    /// What a command with this token says.
    ///
    /// # Errors
    /// It can't be started.
    pub fn with_token(&self, token: &str, args: &[&str]) -> Result<Said> {
        // never written to: SYP_TOKEN comes first
        let o = self.remote(self.engine.dir(), Some(token), args).output().context("sypctl")?;
        Ok(Said {
            code: o.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&o.stdout).into_owned(),
            err: String::from_utf8_lossy(&o.stderr).into_owned(),
        })
    }

    /// The same, and it must end with this exit code.
    ///
    /// # Errors
    /// It ended with another one.
    pub fn ends_with(&self, code: i32, token: &str, args: &[&str]) -> Result<Said> {
        let s = self.with_token(token, args)?;
        ensure!(
            s.code == code,
            "'sypctl {}' ended with {}, not {code}: {}{}",
            args.join(" "),
            s.code,
            s.out,
            s.err
        );
        Ok(s)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.engine.run(&["down", "--all", "--yes", "--timeout", "120s"]);
        let _ = end(&mut self.child);
    }
}

fn log_of(e: &Engine) -> PathBuf {
    e.dir().join("server.log")
}

fn run(sypctl: &Path, e: &Engine, to: SocketAddr, tls: Option<&Certificate>, args: &[&str]) -> Result<Child> {
    let mut c = Command::new(sypctl);
    c.args(["server", "run", "--listen", &to.to_string()]).args(args).env("SYP_DATA_DIR", e.dir());
    if let Some(tls) = tls {
        c.args(["--tls-cert", &tls.file("cert.pem"), "--tls-key", &tls.file("key.pem")]);
    }
    let log = File::options().create(true).append(true).open(log_of(e))?;
    Ok(c.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn()?)
}

/// A person in front of the provider's pages: a browser that keeps cookies, follows redirects and fills in forms.
pub struct Browser {
    dir: tempfile::TempDir,
}

// === impl Browser ===

impl Browser {
    /// A new one, without cookies.
    ///
    /// # Errors
    /// No temporary directory.
    pub fn new() -> Result<Self> {
        Ok(Self { dir: tempfile::tempdir()? })
    }

    /// Opens a page, or sends a form to it; the address where that ended, and what is there.
    ///
    /// # Errors
    /// No answer.
    pub fn open(&self, url: &str, form: &[(&str, &str)]) -> Result<(String, String)> {
        let jar = self.dir.path().join("cookies").display().to_string();
        let fields: Vec<String> = form.iter().map(|(k, v)| format!("{k}={v}")).collect();
        let mut args = vec!["-sS", "-L", "-m", "20", "-c", &jar, "-b", &jar, "-w", "\n%{url_effective}"];
        for f in &fields {
            args.extend(["--data-urlencode", f]);
        }
        args.push(url);
        let out = sh("curl", &args)?;
        let (page, at) = out.rsplit_once('\n').context("no page")?;
        Ok((at.to_owned(), page.to_owned()))
    }

    /// Enters a device code as one of the provider's people, and says yes.
    ///
    /// # Errors
    /// A page is not what it should be.
    pub fn approve(&self, direct: &str, sub: &str) -> Result<()> {
        let (mut at, mut page) = self.open(direct, &[])?;
        // the code's form, the confirmation, the sign-in: whichever is shown
        for _ in 0..5 {
            if page.contains("name=\"user\"") {
                (at, page) = self.open(&at, &[("user", sub)])?;
            } else if let Some(xsrf) = value(&page, "xsrf") {
                let device = direct.split('?').next().unwrap_or_default();
                let code = direct.rsplit_once("user_code=").context("no code")?.1;
                (at, page) = self.open(device, &[("xsrf", xsrf), ("user_code", code), ("confirm", "yes")])?;
            } else {
                break;
            }
        }
        ensure!(page.to_lowercase().contains("success"), "the device was not approved at {at}: {page}");
        Ok(())
    }
}

/// The value of a hidden field.
fn value<'a>(page: &'a str, name: &str) -> Option<&'a str> {
    let input = page.split("<input").find(|i| i.contains(&format!("name=\"{name}\"")))?;
    input.split("value=\"").nth(1)?.split('"').next()
}
