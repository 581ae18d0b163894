//! Docker on this host, or what speaks its API (`DOCKER_HOST`).
use super::Bed;
use crate::product::{Engine, get, left_of, sh};
use anyhow::{Context, Result, ensure};

/// Docker on this host.
pub struct Docker;

impl Docker {
    /// Name of a container of an instance.
    ///
    /// # Errors
    /// It is not there.
    pub fn container(e: &Engine, name: &str, step: &str) -> Result<String> {
        let store = format!("label=syp.dev/store={}", e.store_id()?);
        let (n, s) = (format!("label=syp.dev/name={name}"), format!("label=syp.dev/step={step}"));
        let out = sh("docker", &["ps", "-aq", "--filter", &store, "--filter", &n, "--filter", &s])?;
        Ok(out.lines().next().with_context(|| format!("{step} of {name}"))?.to_owned())
    }

    /// Address of a replica's namespace.
    ///
    /// # Errors
    /// It has none.
    pub fn address(e: &Engine, name: &str) -> Result<(String, String)> {
        let holder = Self::container(e, name, "holder-0")?;
        let format = "{{range $k, $v := .NetworkSettings.Networks}}{{$k}} {{$v.IPAddress}}{{end}}";
        let text = sh("docker", &["inspect", "-f", format, &holder])?;
        let (network, address) = text.trim().split_once(' ').context("no address")?;
        Ok((network.into(), address.into()))
    }
}

impl Bed for Docker {
    fn on(&self) -> &'static str {
        "docker"
    }

    fn image(&self) -> &'static str {
        "syp-test/hello"
    }

    fn broken(&self) -> &'static str {
        "syp-test/crash"
    }

    fn left(&self, store: &str) -> Result<Vec<String>> {
        left_of(store)
    }

    fn ways_past_the_gate(&self, e: &Engine, name: &str) -> Result<Vec<String>> {
        let (network, address) = Self::address(e, name)?;
        // only where this host has a route of its own: anything else would leave the machine
        let route = sh("ip", &["route", "get", &address])?;
        ensure!(route.contains(" dev ") && !route.contains(" via "), "no local route to {address}: {route}");
        let mut open = Vec::new();
        let url = format!("http://{address}:8080/");
        if get(&url, None, &["--connect-timeout", "2"]).is_ok() {
            open.push("from this host".to_owned());
        }
        if crate::product::reaches(&network, &address, "8080")? {
            open.push("from a neighbour container".to_owned());
        }
        // the try itself must be able to succeed: the gate's port is open to the same neighbour
        let gate = address
            .rsplit_once('.')
            .map(|(net, last)| format!("{net}.{}", last.parse::<u32>().unwrap_or(3) - 1));
        let gate = gate.context("address")?;
        ensure!(crate::product::reaches(&network, &gate, "8080")?, "the neighbour can't even reach the gate");
        Ok(open)
    }

    fn way_out(&self, e: &Engine, name: &str) -> Result<bool> {
        // the gate of the instance is elsewhere, seen from the app
        let (_, address) = Self::address(e, name)?;
        let (net, last) = address.rsplit_once('.').context("address")?;
        let gate = format!("{net}.{}", last.parse::<u32>()? - 1);
        let app = Self::container(e, name, "app-0")?;
        let script = format!("/bin/busybox timeout 3 /bin/busybox nc -w 2 {gate} 8080 </dev/null");
        Ok(sh("docker", &["exec", &app, "/bin/busybox", "sh", "-c", &script]).is_ok())
    }
}
