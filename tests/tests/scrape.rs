//! Figures over the API: queries by range and step, the newest of all instances, and what Prometheus gets and who may get it.
use anyhow::{Context, Result, ensure};
use std::{sync::Arc, time::Duration};
use syp_auth::door::GateMetrics;
use syp_engine::{
    api::{Listen, Tls, identity::API_AUDIENCE},
    clock::{Clock, Millis, timestamp},
    graph::State,
    step::Stats,
};
use syp_proto::v1::{
    CreateInstanceRequest, ListMetricsRequest, QueryMetricsRequest, ScrapeRequest,
    instances_client::InstancesClient, metrics_client::MetricsClient,
};
use syp_tests::{
    api::{Conn, World, create, refusal},
    certificate::Certificate,
    oidc::free_port,
    product::sh,
};
use tonic::Code;

const ADMIN: Option<&str> = Some("admin@example.com");
const HOUR: Millis = 3_600_000;
const SHOP: &str = "projects/default/instances/shop";

fn told(ok: u64, started: u64) -> Option<Stats> {
    let mut g = GateMetrics { started_at_ms: started, in_flight: 3, ..Default::default() };
    g.requests_by_class[2] = ok;
    (0..ok).for_each(|_| g.latency.record(2_000));
    Some(Stats { gate: Some(g), ..Default::default() })
}

async fn world() -> Result<(World, MetricsClient<Conn>)> {
    let w = World::new().await?;
    let mut i = InstancesClient::new(w.connect(ADMIN).await?);
    let ask: CreateInstanceRequest = create("shop");
    i.create_instance(ask).await?;
    w.settled("shop", State::Serving).await?;
    let m = MetricsClient::new(w.connect(ADMIN).await?);
    Ok((w, m))
}

fn ask() -> QueryMetricsRequest {
    QueryMetricsRequest { name: SHOP.into(), ..Default::default() }
}

fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

async fn sum(m: &mut MetricsClient<Conn>) -> Result<i64> {
    Ok(m.query_metrics(ask()).await?.into_inner().points.iter().map(|p| p.requests).sum())
}

#[tokio::test]
async fn requests_before_and_after_an_engine_are_told_together_and_by_pages() -> Result<()> {
    let (mut w, mut m) = world().await?;
    ensure!(sum(&mut m).await? == 0, "before anybody looked there is nothing");
    let start = u64::try_from(Clock::System.now())?;
    w.cloud.tell("shop", told(40, start));
    w.look(true).await?;
    w.cloud.tell("shop", told(50, start));
    w.look(false).await?;
    ensure!(sum(&mut m).await? == 50, "on disk and in memory, each once");
    w.kill().await;
    // counted while nobody was there, and what was only in memory
    w.cloud.tell("shop", told(75, start));
    w.start().await?;
    let mut m = MetricsClient::new(w.connect(ADMIN).await?);
    ensure!(sum(&mut m).await? == 40, "what is on disk is told before anybody looks");
    w.look(false).await?;
    ensure!(sum(&mut m).await? == 75, "nothing is lost and nothing twice");
    w.look(true).await?;
    let fine = |token: &str| QueryMetricsRequest {
        step: seconds(10),
        page_size: 1,
        page_token: token.into(),
        ..ask()
    };
    let (mut token, mut all, mut pages) = (String::new(), 0, 0);
    loop {
        let page = m.query_metrics(fine(&token)).await?.into_inner();
        ensure!(page.points.len() <= 1, "a page of one");
        all += page.points.iter().map(|p| p.requests).sum::<i64>();
        pages += 1;
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    ensure!(all == 75 && pages >= 2, "{all} on {pages} pages");
    let p = m.query_metrics(ask()).await?.into_inner().points.pop().context("no point")?;
    let p99 = p.latency.and_then(|l| l.p99).context("no latency")?;
    ensure!((1_900_000..2_200_000).contains(&p99.nanos), "{p99:?}");
    Ok(())
}

#[tokio::test]
async fn what_can_not_be_told_is_refused_with_words_and_strangers_are_told_nothing() -> Result<()> {
    let (mut w, mut m) = world().await?;
    w.cloud.tell("shop", told(4, 1));
    w.look(false).await?;
    let at = |ms: Millis| timestamp(Clock::System.now() + ms);
    for (bad, words) in [
        (QueryMetricsRequest { step: seconds(7), ..ask() }, "multiple of 10s"),
        (QueryMetricsRequest { step: seconds(-60), ..ask() }, "multiple of 10s"),
        (QueryMetricsRequest { start_time: at(HOUR), ..ask() }, "before end_time"),
        (QueryMetricsRequest { start_time: at(-2 * HOUR), step: seconds(10), ..ask() }, "a multiple of 1m"),
        (QueryMetricsRequest { page_token: "x".into(), ..ask() }, "page_token"),
    ] {
        let s = m.query_metrics(bad).await.err().context("it was answered")?;
        ensure!(s.code() == Code::InvalidArgument && s.message().contains(words), "{s:?}");
    }
    let mut stranger = MetricsClient::new(w.connect(Some("eve@example.com")).await?);
    let (code, _) = refusal(stranger.query_metrics(ask()).await);
    ensure!(code == Code::NotFound, "{code:?}");
    let list = || ListMetricsRequest { parent: "projects/-".into(), ..Default::default() };
    let none = stranger.list_metrics(list()).await?.into_inner().instances;
    ensure!(none.is_empty(), "a stranger sees {none:?}");
    let (code, reason) = refusal(stranger.scrape(ScrapeRequest::default()).await);
    ensure!((code, reason.as_str()) == (Code::PermissionDenied, "PERMISSION_DENIED"), "{reason}");
    let all = m.list_metrics(list()).await?.into_inner().instances;
    let point = all.first().and_then(|i| i.point.clone()).context("no newest figures")?;
    ensure!(all[0].name == SHOP && point.requests == 4 && point.open_streams == 3, "{all:?}");
    let mut pieces = m.scrape(ScrapeRequest::default()).await?.into_inner();
    let first = pieces.message().await?.context("nothing to scrape")?;
    let text = String::from_utf8(first.body)?;
    ensure!(first.content_type.starts_with("text/plain"), "{}", first.content_type);
    ensure!(has(&text, "syp_requests_total", ",class=\"2xx\"} 4"), "{text}");
    Ok(())
}

/// A line of the instance, whatever its uid is.
fn has(text: &str, metric: &str, end: &str) -> bool {
    let begin = format!("{metric}{{project=\"default\",name=\"shop\",uid=\"");
    text.lines().any(|l| l.starts_with(&begin) && l.ends_with(end))
}

/// Head and body of the answer to a plain request.
async fn http(w: &World, line: &str, headers: &str) -> Result<(String, Vec<u8>)> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut s = loop {
        // it listens when its task has begun
        match tokio::net::TcpStream::connect(w.metrics).await {
            Ok(s) => break s,
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    };
    let ask = format!("{line} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n");
    s.write_all(ask.as_bytes()).await?;
    let mut all = Vec::new();
    tokio::time::timeout(Duration::from_secs(10), s.read_to_end(&mut all)).await??;
    let end = all.windows(4).position(|w| w == b"\r\n\r\n").context("no head")?;
    Ok((String::from_utf8(all[..end].to_vec())?, all[end + 4..].to_vec()))
}

#[tokio::test]
async fn prometheus_scrapes_with_a_token_and_nobody_without() -> Result<()> {
    let (mut w, _) = world().await?;
    w.cloud.tell("shop", told(4, 1));
    w.look(false).await?;
    let token = |who: &str| {
        Ok::<_, anyhow::Error>(format!(
            "authorization: Bearer {}\r\n",
            w.token(who, API_AUDIENCE, Duration::ZERO)?
        ))
    };
    let (admin, eve) = (token("admin@example.com")?, token("eve@example.com")?);
    for (line, headers, status) in [
        ("GET /metrics", String::new(), "401 Unauthorized"),
        ("GET /metrics", "authorization: Bearer x\r\n".into(), "401 Unauthorized"),
        ("GET /metrics", format!("{admin}{admin}"), "401 Unauthorized"),
        ("GET /metrics", eve, "403 Forbidden"),
        ("POST /metrics", admin.clone(), "405 Method Not Allowed"),
        ("GET /", admin.clone(), "404 Not Found"),
        ("POST /healthz", String::new(), "405 Method Not Allowed"),
        ("GET /healthz", String::new(), "200 OK"),
        ("POST /syp.v1.Server/ShutdownServer", admin.clone(), "404 Not Found"),
    ] {
        let (head, body) = http(&w, line, &headers).await?;
        ensure!(head.starts_with(&format!("HTTP/1.1 {status}")), "{line}: {head}");
        ensure!(!String::from_utf8_lossy(&body).contains("syp_"), "{line} tells something");
    }
    let (head, body) = http(&w, "GET /metrics", &admin).await?;
    ensure!(head.starts_with("HTTP/1.1 200") && head.contains("version=0.0.4"), "{head}");
    let text = String::from_utf8(body)?;
    ensure!(has(&text, "syp_request_duration_seconds_count", "} 4"), "{text}");
    let native = "accept: application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited\r\n";
    let (head, body) = http(&w, "GET /metrics", &format!("{admin}{native}")).await?;
    ensure!(head.contains("application/vnd.google.protobuf") && body.len() > 100, "{head}");
    // whoever was refused is in the audit trail
    let store = Arc::clone(w.api()?.engine.store());
    let refused = async || -> Result<bool> {
        let all = store.audit(None, 100).await?;
        Ok(all.iter().any(|a| {
            a.audit.method == "metrics" && a.audit.email == "eve@example.com" && a.audit.outcome != "Ok"
        }))
    };
    for _ in 0..100 {
        if refused().await? {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    ensure!(refused().await?, "a refusal leaves no row");
    // tokens must not cross a network in clear
    let metrics = Some("0.0.0.0:0".parse()?);
    let open = Listen { metrics, ..Default::default() };
    let s = syp_engine::api::serve(w.api()?, open).await.err().context("it listens")?;
    ensure!(s.to_string().contains("not loopback"), "{s}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn off_loopback_it_takes_tls_and_no_token_of_the_built_in_issuer() -> Result<()> {
    let (w, _) = world().await?;
    let cert = Certificate::of("127.0.0.1")?;
    let (chain, key) = files(&cert)?;
    let tls = Tls::new(&chain, &key)?;
    let token = w.token("admin@example.com", API_AUDIENCE, Duration::ZERO)?;
    for (address, status) in [("127.0.0.1", "200"), ("0.0.0.0", "401")] {
        let port = free_port()?;
        let listen = Listen {
            metrics: Some(format!("{address}:{port}").parse()?),
            tls: Some(tls.clone()),
            ..Default::default()
        };
        let served = tokio::spawn(syp_engine::api::serve(w.api()?, listen));
        let url = format!("https://127.0.0.1:{port}/metrics");
        let (ca, bearer) = (cert.file("ca.pem"), format!("Authorization: Bearer {token}"));
        let ask = move || {
            let args = ["-s", "-m", "10", "--retry", "20", "--retry-connrefused", "--retry-delay", "1"];
            let more = ["--cacert", &ca, "-H", &bearer, "-o", "/dev/null", "-w", "%{http_code}", &url];
            sh("curl", &[&args[..], &more[..]].concat())
        };
        let got = tokio::task::spawn_blocking(ask).await??;
        ensure!(got == status, "{address}: {got}, not {status}");
        served.abort();
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_certificate_is_taken_without_a_restart_and_a_broken_one_is_not() -> Result<()> {
    let (w, _) = world().await?;
    let (old, new) = (Certificate::of("127.0.0.1")?, Certificate::of("127.0.0.1")?);
    let (chain, key) = files(&old)?;
    let tls = Tls::new(&chain, &key)?;
    let (metrics, tcp) = (free_port()?, free_port()?);
    let address = |p: u16| Some(std::net::SocketAddr::from(([127, 0, 0, 1], p)));
    let listen =
        Listen { metrics: address(metrics), tcp: address(tcp), tls: Some(tls.clone()), ..Default::default() };
    let served = tokio::spawn(syp_engine::api::serve(w.api()?, listen));
    // who connects and says nothing keeps nobody waiting
    let mut silent = Vec::new();
    for _ in 0..3 {
        silent.push(connected(address(tcp).context("address")?).await?);
    }
    // both listeners, by HTTP/1 and by what gRPC needs
    let trusted = async |by: &Certificate| -> Result<bool> {
        let ca = by.file("ca.pem");
        tokio::task::spawn_blocking(move || {
            let args = ["-s", "-m", "10", "--cacert", &ca, "-o", "/dev/null", "-w", "%{http_version}"];
            let ask = |url: String| sh("curl", &[&args[..], &[url.as_str()]].concat());
            let http = ask(format!("https://127.0.0.1:{metrics}/healthz")).is_ok_and(|v| v == "1.1");
            let grpc = ask(format!("https://127.0.0.1:{tcp}/")).is_ok_and(|v| v == "2");
            ensure!(http == grpc, "the listeners differ: {http} {grpc}");
            Ok(http)
        })
        .await?
    };
    ensure!(trusted(&old).await? && !trusted(&new).await?, "the first certificate");
    // a key of another certificate, as when only one of the files is written yet
    ensure!(tls.exchange(&files(&new)?.0, &key).is_err(), "a key of another certificate is taken");
    ensure!(tls.exchange(b"x", &key).is_err(), "no certificate is taken");
    ensure!(trusted(&old).await?, "the first one stays");
    let (chain, key) = files(&new)?;
    tls.exchange(&chain, &key)?;
    ensure!(trusted(&new).await? && !trusted(&old).await?, "the new certificate");
    served.abort();
    Ok(())
}

fn files(c: &Certificate) -> Result<(Vec<u8>, Vec<u8>)> {
    Ok((std::fs::read(c.file("cert.pem"))?, std::fs::read(c.file("key.pem"))?))
}

/// As soon as somebody listens there.
async fn connected(to: std::net::SocketAddr) -> Result<tokio::net::TcpStream> {
    for _ in 0..500 {
        match tokio::net::TcpStream::connect(to).await {
            Ok(s) => return Ok(s),
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
    anyhow::bail!("nobody listens on {to}")
}
