//! The emulator behind the bed, which has what is only data: secrets, certificates, roles, networks.
use super::http;
use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Response, header};
use serde_json::{Value, json};
use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use time::format_description::well_known::Rfc3339;

/// Which one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// Makes stacks of resources that have events, as time goes on.
    Ministack,
    /// Makes a stack at once, and has no events but the stack's.
    Moto,
}

/// Its process, which ends with it.
pub struct Emulator {
    /// Where it listens.
    pub at: SocketAddr,
    process: Child,
}

/// How it is asked.
#[derive(Clone, Debug)]
pub struct Behind {
    /// Where it listens.
    pub at: SocketAddr,
    /// Whose things are meant.
    pub region: String,
    /// Its CloudFormation has the stacks.
    pub keeps: bool,
}

// === impl Emulator ===

impl Emulator {
    /// On a free port.
    pub fn start(program: Program, ministack: &Path) -> Result<Self> {
        let at = SocketAddr::from((Ipv4Addr::LOCALHOST, crate::oidc::free_port()?));
        let port = at.port().to_string();
        let mut command = match program {
            Program::Ministack => Command::new(ministack),
            Program::Moto => Command::new(ministack.with_file_name("moto_server")),
        };
        match program {
            // it would listen everywhere, and take Docker's containers for its own
            Program::Ministack => command.envs([
                ("BIND_HOST", "127.0.0.1"),
                ("DOCKER_HOST", "unix:///nonexistent.sock"),
                ("IOT_MTLS_ENABLED", "0"),
                ("GATEWAY_PORT", port.as_str()),
            ]),
            // a certificate is issued at once
            Program::Moto => {
                command.args(["-H", "127.0.0.1", "-p", &port]).env("MOTO_ACM_VALIDATION_WAIT", "0")
            }
        };
        let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let process = quiet.spawn().with_context(|| format!("{program:?}"))?;
        let mut it = Self { at, process };
        let end = Instant::now() + Duration::from_secs(60);
        while TcpStream::connect(at).is_err() {
            ensure!(it.process.try_wait()?.is_none(), "the emulator of AWS ended at once");
            ensure!(Instant::now() < end, "the emulator of AWS does not listen");
            crate::product::pause(50);
        }
        Ok(it)
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

// === impl Behind ===

impl Behind {
    /// Hands a request on as it came.
    pub async fn hand_on(&self, request: Request<Full<Bytes>>) -> io::Result<Response<Full<Bytes>>> {
        http::send(self.at, request).await
    }

    /// Asks a service that speaks JSON.
    pub async fn json(&self, service: &str, target: &str, body: &Value) -> Result<Value> {
        let more = [("X-Amz-Target", target), ("Content-Type", "application/x-amz-json-1.1")];
        let text = self.ask(service, &more, body.to_string()).await?;
        serde_json::from_str(&text).with_context(|| text)
    }

    /// Asks a service that speaks in queries.
    pub async fn form(&self, service: &str, fields: &[(&str, &str)]) -> Result<String> {
        let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        self.ask(service, &[("Content-Type", "application/x-www-form-urlencoded")], body).await
    }

    async fn ask(&self, service: &str, headers: &[(&str, &str)], body: String) -> Result<String> {
        // it reads the region and the service from here, and looks at no signature
        let credential = format!("Credential=test/20260101/{}/{service}/aws4_request", self.region);
        let mut request = Request::post("/").header(header::HOST, self.at.to_string()).header(
            header::AUTHORIZATION,
            format!("AWS4-HMAC-SHA256 {credential}, SignedHeaders=host, Signature=0"),
        );
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = http::send(self.at, request.body(Full::from(body))?).await?;
        let (status, text) = (answer.status(), http::text(answer).await);
        if !status.is_success() {
            bail!("{service} behind: {status}: {text}");
        }
        Ok(text)
    }

    /// What some service of AWS' has measured: of the last minute nothing is told yet.
    pub async fn measured(
        &self,
        namespace: &str,
        metric: &str,
        dimensions: &[(&str, &str)],
        value: f64,
    ) -> Result<()> {
        let at = time::OffsetDateTime::now_utc() - Duration::from_secs(90);
        // the emulator reads whole seconds
        let at = at.replace_nanosecond(0)?.format(&Rfc3339)?;
        let mut fields = vec![
            ("MetricData.member.1.Timestamp".to_owned(), at),
            ("Action".to_owned(), "PutMetricData".to_owned()),
            ("Version".to_owned(), "2010-08-01".to_owned()),
            ("Namespace".to_owned(), namespace.to_owned()),
            ("MetricData.member.1.MetricName".to_owned(), metric.to_owned()),
            ("MetricData.member.1.Value".to_owned(), value.to_string()),
        ];
        for (n, (name, of)) in dimensions.iter().enumerate() {
            let dimension = format!("MetricData.member.1.Dimensions.member.{}", n + 1);
            fields.push((format!("{dimension}.Name"), (*name).to_owned()));
            fields.push((format!("{dimension}.Value"), (*of).to_owned()));
        }
        let fields: Vec<(&str, &str)> = fields.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        self.form("monitoring", &fields).await.map(drop)
    }

    /// What an account has before anything is brought up. Its number, and the ARN of a certificate for `*.example.com`.
    pub async fn furnish(&self) -> Result<(String, String)> {
        let who = self.form("sts", &[("Action", "GetCallerIdentity"), ("Version", "2011-06-15")]).await?;
        let account = between(&who, "<Account>", "</Account>").context("an account")?.to_owned();
        let wanted = json!({ "DomainName": "*.example.com", "ValidationMethod": "DNS" });
        let made = self.json("acm", "CertificateManager.RequestCertificate", &wanted).await?;
        let certificate = made["CertificateArn"].as_str().context("a certificate")?.to_owned();
        let trust = json!({ "Version": "2012-10-17", "Statement": [{
            "Effect": "Allow", "Principal": { "Service": "cloudformation.amazonaws.com" }, "Action": "sts:AssumeRole",
        }] });
        let all = json!({ "Version": "2012-10-17", "Statement": [{ "Effect": "Allow", "Action": "*", "Resource": "*" }] });
        let iam = async |action: &str, name: &str, value: &str, document: &str, text: &Value| {
            let fields = [
                ("Action", action),
                ("Version", "2010-05-08"),
                ("Path", "/sypctl/"),
                (name, value),
                (document, &text.to_string()),
            ];
            self.form("iam", &fields).await
        };
        iam("CreateRole", "RoleName", "sypctl-cloudformation", "AssumeRolePolicyDocument", &trust).await?;
        iam("CreatePolicy", "PolicyName", "sypctl-task-boundary", "PolicyDocument", &all).await?;
        let ec2 = async |action| self.form("ec2", &[("Action", action), ("Version", "2016-11-15")]).await;
        ensure!(ec2("DescribeVpcs").await?.contains("<isDefault>true</isDefault>"), "no default VPC behind");
        let zones = ec2("DescribeSubnets").await?.matches("<availabilityZone>").count();
        ensure!(zones >= 2, "{zones} subnets behind: a load balancer needs two");
        Ok((account, certificate))
    }

    /// The value that a `ValueFrom` of a container means: an ARN, or one with `:KEY::` of a JSON value.
    pub async fn value(&self, from: &str) -> Result<String> {
        let parts: Vec<&str> = from.split(':').collect();
        let arn = parts.get(..7.min(parts.len())).unwrap_or_default().join(":");
        let asked = json!({ "SecretId": arn });
        let got = self.json("secretsmanager", "secretsmanager.GetSecretValue", &asked).await?;
        let text = got["SecretString"].as_str().context("a secret of text")?;
        let Some(key) = parts.get(7).filter(|k| !k.is_empty()) else { return Ok(text.to_owned()) };
        let held: Value = serde_json::from_str(text).context("a secret with keys is JSON")?;
        let value = &held[*key];
        ensure!(!value.is_null(), "retrieved secret did not contain json key {key}");
        Ok(value.as_str().map_or_else(|| value.to_string(), str::to_owned))
    }
}

/// What is between two texts.
pub fn between<'a>(text: &'a str, from: &str, to: &str) -> Option<&'a str> {
    text.split_once(from)?.1.split_once(to).map(|(found, _)| found)
}
