//! From outside by name, on a cluster that is somebody else's: through its ingress, and through a Gateway (Traefik is both).
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use syp_tests::{
    certificate::Certificate,
    conformance::{Bed, Cluster},
    product::{Engine, binary, sh},
};

const ALICE: &str = "user:alice@example.com";
const MALLORY: &str = "user:mallory@example.com";
const GATEWAYS: &str = "syp-test-gateways";
/// Who signs for cert-manager, as an ingress says it.
const SIGNER: [&str; 2] = ["--ingress-annotation", "cert-manager.io/cluster-issuer=ours"];
/// The NodePorts of the testbed's Traefik.
const DOORS: [(u16, u16); 2] = [(80, 30_080), (443, 30_443)];

struct World {
    cluster: Cluster,
    engine: Engine,
    node: String,
}

impl Drop for World {
    fn drop(&mut self) {
        let _ =
            self.cluster.kubectl(&["delete", "namespace", GATEWAYS, "--ignore-not-found", "--wait=false"]);
    }
}

impl World {
    fn start() -> Result<Option<Self>> {
        let (Some(sypctl), Some(cluster)) = (binary(), Cluster::from_env()?) else { return Ok(None) };
        let engine = cluster.engine(&sypctl)?;
        let form = "jsonpath={.items[0].status.addresses[?(@.type==\"InternalIP\")].address}";
        let node = cluster.kubectl(&["get", "nodes", "-o", form])?;
        Ok(Some(Self { cluster, engine, node: node.trim().to_owned() }))
    }

    fn apply(&self, objects: &[Value]) -> Result<()> {
        let file = tempfile::NamedTempFile::new()?;
        let list = json!({ "apiVersion": "v1", "kind": "List", "items": objects });
        std::fs::write(file.path(), list.to_string())?;
        self.cluster.kubectl(&["apply", "-f", &file.path().display().to_string()]).map(drop)
    }

    fn gateway(&self, name: &str, listeners: &Value) -> Value {
        json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
            "metadata": { "name": name, "namespace": GATEWAYS },
            "spec": { "gatewayClassName": "traefik", "listeners": listeners },
        })
    }

    fn up(&self, name: &str, more: &[&str]) -> Vec<String> {
        let mut all = vec!["up", name, "--image", "syp-test/hello:latest", "--port", "8080", "--on", "k8s"];
        all.extend(["--isolation", "rules", "--allow", ALICE, "--yes"]);
        all.extend(more);
        all.into_iter().map(str::to_owned).collect()
    }

    fn run(&self, args: &[String]) -> Result<()> {
        self.engine.ok(&args.iter().map(String::as_str).collect::<Vec<_>>()).map(drop)
    }

    fn refused(&self, more: &[&str], reason: &str, words: &str) -> Result<()> {
        let args = self.up("shop", more);
        let said = self.engine.run(&args.iter().map(String::as_str).collect::<Vec<_>>())?;
        ensure!(
            said.code != 0 && said.err.contains(reason) && said.err.contains(words),
            "{more:?}: {said:?}"
        );
        ensure!(self.cluster.left(&self.engine.store_id()?)?.is_empty(), "{more:?}: nothing was made");
        Ok(())
    }

    /// What the one Ingress for a name says.
    fn ingress(&self, domain: &str, path: &str) -> Result<String> {
        let form =
            format!("jsonpath={{range .items[?(@.spec.rules[0].host==\"{domain}\")]}}{{.{path}}}{{end}}");
        self.cluster.kubectl(&["get", "ingresses", "-A", "-o", &form])
    }

    /// Status codes by name, as a caller meets them whose DNS leads to the cluster: without a token, as somebody who is not listed, and
    /// as somebody who is.
    fn asked(&self, name: &str, cacert: Option<&str>) -> Result<[String; 3]> {
        let url = self.engine.endpoint(name)?;
        let [stranger, token] = [MALLORY, ALICE].map(|who| self.engine.token(name, Some(who)));
        let code = |token: Option<&str>| {
            let ways = DOORS.map(|(from, to)| format!(":{from}:{}:{to}", self.node));
            let mut args = vec!["-s", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "10"];
            for way in &ways {
                args.extend(["--connect-to", way]);
            }
            if let Some(file) = cacert {
                args.extend(["--cacert", file]);
            }
            let header = token.map(|t| format!("Authorization: Bearer {t}"));
            if let Some(h) = &header {
                args.extend(["-H", h]);
            }
            args.push(&url);
            Ok::<_, anyhow::Error>(sh("curl", &args)?.trim().to_owned())
        };
        Ok([code(None)?, code(Some(&stranger?))?, code(Some(&token?))?])
    }

    /// A controller hears of a name a moment after the API server.
    fn serves(&self, name: &str, cacert: Option<&str>) -> Result<()> {
        let mut said = Err(anyhow::anyhow!("not asked"));
        for _ in 0..50 {
            said = self.asked(name, cacert);
            if said.as_ref().is_ok_and(|codes| codes == &["401", "403", "200"]) {
                return Ok(());
            }
            syp_tests::product::pause(200);
        }
        anyhow::bail!("{name}: {said:?}")
    }
}

#[test]
fn names_come_in_through_a_gateway_or_an_ingress_of_the_cluster() -> Result<()> {
    let Some(w) = World::start()? else { return Ok(()) };
    let name = "shop.example.test";
    let tls = Certificate::of(name)?;
    w.cluster.kubectl(&["create", "namespace", GATEWAYS])?;
    let (cert, key) = (format!("--cert={}", tls.file("cert.pem")), format!("--key={}", tls.file("key.pem")));
    w.cluster.kubectl(&["create", "secret", "tls", "web", "-n", GATEWAYS, &cert, &key])?;
    let all = json!({ "namespaces": { "from": "All" } });
    let secret = json!({ "mode": "Terminate", "certificateRefs": [{ "name": "web" }] });
    w.apply(&[
        w.gateway("web", &json!([
            { "name": "http", "protocol": "HTTP", "port": 80, "allowedRoutes": all },
            { "name": "https", "protocol": "HTTPS", "port": 443, "hostname": "*.example.test", "tls": secret, "allowedRoutes": all },
        ])),
        w.gateway("own", &json!([{ "name": "http", "protocol": "HTTP", "port": 80, "hostname": "own.test" }])),
    ])?;
    let at = |gateway: &str| format!("{GATEWAYS}/{gateway}");
    let (web, own, none) = (at("web"), at("own"), at("none"));
    w.refused(&["--domain", name, "--gateway", &none], "GATEWAY_NOT_FOUND", "kubectl get gateways")?;
    w.refused(&["--domain", name, "--gateway", &own], "ROUTE_REFUSED", "takes 'shop.example.test'")?;
    w.refused(&["--domain", "own.test", "--gateway", &own], "ROUTE_REFUSED", "own namespace alone")?;
    w.refused(&["--domain", name, "--gateway", "web"], "INVALID_ARGUMENT", "NAMESPACE/web")?;
    let given = ["--domain", name, "--namespace", GATEWAYS, SIGNER[0], SIGNER[1]];
    w.refused(&given, "INVALID_ARGUMENT", "--tls-secret")?;
    w.refused(&["--domain", name, "--ingress-class", "nope"], "INGRESS_CLASS_NOT_FOUND", "it has traefik")?;
    let tls_of = ["--domain", name, "--ingress-class", "traefik", "--tls-secret"];
    w.refused(&[&tls_of[..], &["web"]].concat(), "INVALID_ARGUMENT", "--namespace")?;
    let given = ["--namespace", GATEWAYS];
    let absent = [&tls_of[..], &["absent"], &given].concat();
    w.refused(&absent, "CERTIFICATE_UNSUITABLE", "kubectl create secret tls absent")?;

    w.run(&w.up("shop", &["--domain", name, "--gateway", &web]))?;
    ensure!(w.engine.endpoint("shop")? == format!("https://{name}"), "{}", w.engine.endpoint("shop")?);
    w.serves("shop", Some(&tls.file("ca.pem")))?;
    // a listener without TLS, and an ingress of the cluster's own choice
    w.run(&w.up("plain", &["--domain", "plain.test", "--gateway", &web]))?;
    ensure!(w.engine.endpoint("plain")? == "http://plain.test", "{}", w.engine.endpoint("plain")?);
    w.serves("plain", None)?;
    w.run(&w.up("old", &["--domain", "old.test", "--ingress-annotation", "lb.test/scheme=internal"]))?;
    w.serves("old", None).context("an ingress")?;
    ensure!(w.ingress("old.test", "metadata.annotations.lb\\.test/scheme")? == "internal");

    // the class and the certificate that somebody says
    let own = Certificate::of("classy.test")?;
    let (cert, key) = (format!("--cert={}", own.file("cert.pem")), format!("--key={}", own.file("key.pem")));
    w.cluster.kubectl(&["create", "secret", "tls", "classy", "-n", GATEWAYS, &cert, &key])?;
    let named = ["--domain", "classy.test", "--ingress-class", "traefik", "--tls-secret", "classy"];
    w.run(&w.up("classy", &[&named[..], &given].concat()))?;
    ensure!(w.engine.endpoint("classy")? == "https://classy.test", "{}", w.engine.endpoint("classy")?);
    w.serves("classy", Some(&own.file("ca.pem"))).context("a class and a certificate of the user's")?;

    // a certificate that cert-manager makes, whose part is this test's
    w.run(&w.up("signed", &["--domain", "signed.test", SIGNER[0], SIGNER[1]]))?;
    let (space, secret) = (
        w.ingress("signed.test", "metadata.namespace")?,
        w.ingress("signed.test", "spec.tls[0].secretName")?,
    );
    let signed = Certificate::of("signed.test")?;
    let (cert, key) =
        (format!("--cert={}", signed.file("cert.pem")), format!("--key={}", signed.file("key.pem")));
    w.cluster.kubectl(&["create", "secret", "tls", &secret, "-n", &space, &cert, &key])?;
    ensure!(w.engine.endpoint("signed")? == "https://signed.test", "{}", w.engine.endpoint("signed")?);
    w.serves("signed", Some(&signed.file("ca.pem"))).context("a certificate of cert-manager")?;
    for name in ["shop", "plain", "old", "classy", "signed"] {
        w.engine.down(name)?;
    }
    let left = w.cluster.left(&w.engine.store_id()?)?;
    ensure!(left.is_empty(), "{left:?}");
    Ok(())
}
