//! A real registry (Debian's docker-registry) on this host, or beside a kind node as its nodes and this host reach it by one name.
use crate::{
    oidc::free_port,
    product::{get, pause, sh},
};
use anyhow::{Context, Result, ensure};
use std::{
    collections::BTreeMap,
    fs,
    io::copy,
    net::{Shutdown, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant, SystemTime},
};

/// `htpasswd -nbB alice a-secret-of-alice`
const USERS: &str = "alice:$2y$05$R2xtmRTlgk2XvXZLaR1C2e55ktaq9QvN.AR9KnKgyeRo8GWB7BzWO";
/// Debian with what the registry's program needs.
const BESIDE: &str = "syp-test/nginx";

enum Running {
    Here(Child),
    Beside(String),
}

/// It ends, with what was pulled from it, when it is dropped.
pub struct Registry {
    running: Running,
    dir: tempfile::TempDir,
    /// `127.0.0.1:PORT`.
    pub host: String,
}

// === impl Registry ===

impl Registry {
    /// With one user; `None`: this machine has none (not under CI).
    ///
    /// # Errors
    /// It does not answer.
    pub fn start() -> Result<Option<Self>> {
        Self::here(|dir| format!("auth: {{htpasswd: {{realm: test, path: {dir}/users}}}}\n"))
    }

    /// One that takes everything from everybody.
    ///
    /// # Errors
    /// It does not answer.
    pub fn open() -> Result<Option<Self>> {
        Self::here(|_| String::new())
    }

    fn here(auth: impl Fn(&str) -> String) -> Result<Option<Self>> {
        let Some(program) = program()? else { return Ok(None) };
        let dir = tempfile::tempdir()?;
        let address = format!("127.0.0.1:{}", free_port()?);
        let config = configure(&dir, &address, &auth(&dir.path().display().to_string()))?;
        let child = Command::new(program)
            .arg("serve")
            .arg(config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Self { running: Running::Here(child), dir, host: address }.answers().map(Some)
    }

    /// With one user, in the network of a container: `127.0.0.1:PORT` is it there, and here by a wire.
    ///
    /// # Errors
    /// It does not answer.
    pub fn beside(node: &str) -> Result<Option<Self>> {
        let Some(program) = program()? else { return Ok(None) };
        let dir = tempfile::tempdir()?;
        let wire = TcpListener::bind("127.0.0.1:0")?;
        let port = wire.local_addr()?.port();
        let path = dir.path().display().to_string();
        let auth = format!("auth: {{htpasswd: {{realm: test, path: {path}/users}}}}\n");
        let config = configure(&dir, &format!("0.0.0.0:{port}"), &auth)?;
        let (network, config) = (format!("container:{node}"), config.display().to_string());
        let (data, binary) = (format!("{path}:{path}"), format!("{}:/registry:ro", program.display()));
        let user = sh("id", &["-u"])?;
        let run = [
            "run",
            "-d",
            "--user",
            user.trim(),
            "--network",
            &network,
            "-v",
            &data,
            "-v",
            &binary,
            "--entrypoint",
            "/registry",
        ];
        let id = sh("docker", &[&run[..], &[BESIDE, "serve", &config]].concat())?;
        let running = Running::Beside(id.trim().to_owned());
        let form = "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}";
        let at = sh("docker", &["inspect", "-f", form, node])?;
        let at = at.split_whitespace().next().context("the node's address")?.to_owned();
        std::thread::spawn(move || {
            for from in wire.incoming().flatten() {
                let Ok(to) = TcpStream::connect((at.as_str(), port)) else { continue };
                for (mut a, mut b) in [(from.try_clone(), to.try_clone()), (to.try_clone(), from.try_clone())]
                    .into_iter()
                    .filter_map(|(a, b)| Some((a.ok()?, b.ok()?)))
                {
                    std::thread::spawn(move || {
                        let _ = copy(&mut a, &mut b);
                        b.shutdown(Shutdown::Write)
                    });
                }
            }
        });
        Self { running, dir, host: format!("127.0.0.1:{port}") }.answers().map(Some)
    }

    fn answers(self) -> Result<Self> {
        let end = Instant::now() + Duration::from_secs(120);
        while get(&format!("http://{}/v2/", self.host), None, &[]).is_err() {
            ensure!(Instant::now() < end, "the registry does not answer");
            pause(50);
        }
        Ok(self)
    }

    /// Where it keeps what it has, and what belongs to it.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A folder with a login of alice (`a-secret-of-alice`), as `docker login` makes it.
    ///
    /// # Errors
    /// I/O.
    pub fn login(&self, password: &str) -> Result<String> {
        let dir = self.dir().join(password);
        fs::create_dir_all(&dir)?;
        let path = dir.to_str().context("path")?.to_owned();
        // "alice:PASSWORD" in base64, by the system's own tool
        let auth = sh("sh", &["-c", &format!("printf %s 'alice:{password}' | base64 -w0")])?;
        let config = serde_json::json!({ "auths": { &self.host: { "auth": auth } } });
        fs::write(dir.join("config.json"), config.to_string())?;
        Ok(path)
    }

    /// Every file that it keeps, and when it was written.
    ///
    /// # Errors
    /// I/O.
    pub fn kept(&self) -> Result<BTreeMap<PathBuf, SystemTime>> {
        let mut out = BTreeMap::new();
        let data = self.dir().join("data");
        if data.is_dir() {
            walk(&data, &mut out)?;
        }
        Ok(out)
    }
}

fn walk(dir: &Path, out: &mut BTreeMap<PathBuf, SystemTime>) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        out.insert(entry.path(), entry.metadata()?.modified()?);
        if entry.file_type()?.is_dir() {
            walk(&entry.path(), out)?;
        }
    }
    Ok(())
}

fn program() -> Result<Option<PathBuf>> {
    let there = std::env::var_os("SYP_TEST_REGISTRY").map(PathBuf::from);
    if there.is_none() {
        ensure!(std::env::var("CI").as_deref() != Ok("true"), "no docker-registry");
        println!("SKIPPED: no docker-registry (SYP_TEST_REGISTRY does not say where one is)");
    }
    Ok(there)
}

fn configure(dir: &tempfile::TempDir, address: &str, auth: &str) -> Result<PathBuf> {
    let (path, file) = (dir.path().display(), dir.path().join("config.yml"));
    fs::write(dir.path().join("users"), USERS)?;
    fs::write(
        &file,
        format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {path}/data}}}}\n\
             http: {{addr: '{address}'}}\n{auth}"
        ),
    )?;
    Ok(file)
}

impl Drop for Registry {
    fn drop(&mut self) {
        match &mut self.running {
            Running::Here(child) => {
                let _ = child.kill();
                let _ = child.wait();
            }
            Running::Beside(id) => {
                let _ = sh("docker", &["rm", "-f", "-v", id]);
            }
        }
        // by name: what was tagged with it is somebody else's
        let form = "{{.Repository}}:{{.Tag}} {{.Repository}}@{{.Digest}}";
        let all = sh("docker", &["images", "--digests", "--format", form]).unwrap_or_default();
        let ours = all.split_whitespace().filter(|n| n.starts_with(&self.host) && !n.contains("<none>"));
        for name in ours {
            let _ = sh("docker", &["rmi", name]);
        }
    }
}
