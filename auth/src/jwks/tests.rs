use super::*;
use serde_json::json;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

/// A provider on loopback whose answers a test chooses, and that counts how often its keys were asked for.
struct Provider {
    name: String,
    keys: Mutex<Value>,
    down: std::sync::atomic::AtomicBool,
    asked: AtomicUsize,
}

// === impl Provider ===

impl Provider {
    async fn start(kids: &[&str]) -> Arc<Self> {
        crate::install_crypto();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let name = format!("http://{}", listener.local_addr().unwrap());
        let this = Arc::new(Self {
            name,
            keys: Mutex::new(key_set(kids)),
            down: Default::default(),
            asked: Default::default(),
        });
        let serving = this.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = vec![0; 4096];
                let n = stream.read(&mut head).await.unwrap_or(0);
                let (status, body) = serving.answer(&String::from_utf8_lossy(&head[..n]));
                let answer = format!(
                    "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                    body.len()
                );
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        this
    }

    fn answer(&self, head: &str) -> (&'static str, String) {
        if head.starts_with("GET /jwks") {
            self.asked.fetch_add(1, Ordering::Relaxed);
        }
        if self.down.load(Ordering::Relaxed) {
            return ("503 Down", String::new());
        }
        if head.starts_with("GET /jwks") {
            return ("200 OK", self.keys.lock().to_string());
        }
        ("200 OK", json!({ "issuer": self.name, "jwks_uri": format!("{}/jwks", self.name) }).to_string())
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }

    fn config(&self) -> IssuerConfig {
        config(&self.name)
    }

    fn issuer(&self, options: Options) -> Arc<Issuer> {
        Arc::new(Issuer::new(self.config(), options, fetcher()).unwrap())
    }
}

fn fetcher() -> Fetcher {
    Fetcher::new(Duration::from_secs(2), None).unwrap()
}

fn config(issuer: &str) -> IssuerConfig {
    IssuerConfig {
        issuer: issuer.to_owned(),
        jwks_uri: None,
        jwks: None,
        email_verified_default: false,
        groups_claim: default_groups_claim(),
    }
}

/// Ed25519 keys of the right length; nothing is signed here.
fn key_set(kids: &[&str]) -> Value {
    let key = |kid: &&str| {
        json!({ "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": kid,
            "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" })
    };
    json!({ "keys": kids.iter().map(key).collect::<Vec<_>>() })
}

fn quick() -> Options {
    Options { min_gap: Duration::from_millis(200), ..Options::default() }
}

fn has(issuer: &Issuer, kid: &str) -> bool {
    issuer.keys().is_some_and(|(_, keys)| keys.has_kid(kid))
}

#[tokio::test]
async fn a_new_key_is_taken_even_right_after_a_fetch() {
    let p = Provider::start(&["old"]).await;
    let issuer = p.issuer(quick());
    issuer.refresh().await.unwrap();
    *p.keys.lock() = key_set(&["new", "old"]);
    issuer.refetch("new").await;
    assert!(has(&issuer, "new"));
    assert_eq!(p.asked(), 2);
}

#[tokio::test]
async fn a_crowd_that_waits_is_answered_by_one_fetch() {
    let p = Provider::start(&["old"]).await;
    let issuer = p.issuer(quick());
    issuer.refresh().await.unwrap();
    let kids: Vec<String> = (0..100).map(|n| format!("made-up-{n}")).collect();
    let start = Instant::now();
    futures_join(kids.iter().map(|kid| issuer.refetch(kid)).collect()).await;
    assert_eq!(p.asked(), 2);
    assert!(start.elapsed() < Duration::from_secs(10), "they waited one after the other");
    // the one that was asked for is remembered
    issuer.refetch(&kids[0]).await;
    assert_eq!(p.asked(), 2);
}

/// All of them, side by side.
async fn futures_join<F: Future<Output = ()>>(all: Vec<F>) {
    let mut all: Vec<_> = all.into_iter().map(Box::pin).collect();
    std::future::poll_fn(|cx| {
        all.retain_mut(|f| f.as_mut().poll(cx).is_pending());
        if all.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}

#[tokio::test]
async fn the_last_good_keys_serve_until_they_are_too_old() {
    let p = Provider::start(&["k"]).await;
    let issuer = p.issuer(Options { max_age: Duration::from_secs(3), ..quick() });
    issuer.refresh().await.unwrap();
    p.down.store(true, Ordering::Relaxed);
    issuer.refresh().await.unwrap_err();
    assert!(has(&issuer, "k"));
    assert!(issuer.status().last_error.is_some());
    // not remembered as unknown: a provider that is down says nothing about a key
    issuer.refetch("later").await;
    tokio::time::sleep(Duration::from_millis(3_100)).await;
    assert!(issuer.keys().is_none() && issuer.stamp().is_none() && issuer.for_gate().is_none());
    p.down.store(false, Ordering::Relaxed);
    *p.keys.lock() = key_set(&["later"]);
    issuer.refetch("later").await;
    assert!(has(&issuer, "later") && !has(&issuer, "k"), "what the issuer dropped is gone");
}

#[tokio::test]
async fn what_is_no_key_set_changes_nothing() {
    let p = Provider::start(&["k"]).await;
    let issuer = p.issuer(quick());
    issuer.refresh().await.unwrap();
    for bad in [json!({ "keys": [] }), json!([]), json!({ "keys": [{ "kty": "oct", "k": "AAAA" }] })] {
        *p.keys.lock() = bad;
        issuer.refresh().await.unwrap_err();
        assert!(has(&issuer, "k"));
    }
}

#[tokio::test]
async fn a_discovery_document_of_somebody_else_is_refused() {
    let p = Provider::start(&["k"]).await;
    let mut config = p.config();
    config.issuer.push('/');
    let issuer = Issuer::new(config, quick(), fetcher()).unwrap();
    assert!(matches!(issuer.refresh().await, Err(Error::Impostor { .. })));
    assert!(issuer.keys().is_none());
}

#[tokio::test]
async fn a_gate_asks_its_engine_and_waits_for_the_answer() {
    let relay = Arc::new(Relay::default());
    let issuers = Issuers::new(Options { relay: Some(relay.clone()), ..quick() }, fetcher());
    let pushed = |kids: &[&str]| IssuerConfig { jwks: Some(key_set(kids)), ..config("https://idp.example") };
    let issuer = issuers.apply(&[pushed(&["old"])]).unwrap().remove(0);
    let engine = async {
        let wanted = relay.next().await;
        assert_eq!((wanted.issuer.as_str(), wanted.kid.as_str()), ("https://idp.example", "new"));
        issuers.apply(&[pushed(&["new"])]).unwrap();
    };
    tokio::join!(issuer.refetch("new"), engine);
    assert!(has(&issuer, "new") && !has(&issuer, "old"));
}

#[tokio::test]
async fn an_engine_without_keys_takes_none_away() {
    let issuers = Issuers::new(quick(), fetcher());
    let name = "https://idp.example";
    let with = IssuerConfig {
        jwks: Some(key_set(&["k"])),
        jwks_uri: Some("https://idp.example/jwks".into()),
        ..config(name)
    };
    let first = issuers.apply(std::slice::from_ref(&with)).unwrap().remove(0);
    let second = issuers.apply(&[config(name)]).unwrap().remove(0);
    assert!(Arc::ptr_eq(&first, &second) && has(&second, "k"));
    // another reading of its tokens is another issuer
    let third =
        issuers.apply(&[IssuerConfig { groups_claim: "roles".into(), ..config(name) }]).unwrap().remove(0);
    assert!(!Arc::ptr_eq(&first, &third) && third.keys().is_none());
}

#[tokio::test]
async fn a_gate_gets_the_keys_inline_and_their_address_only_when_it_could_reach_it() {
    let p = Provider::start(&["k"]).await;
    let issuer = p.issuer(quick());
    assert_eq!(issuer.for_gate(), Some(p.config()), "before there are keys it goes without");
    issuer.refresh().await.unwrap();
    let given = issuer.for_gate().unwrap();
    assert_eq!((given.jwks, given.jwks_uri), (Some(key_set(&["k"])), None), "loopback is not the gate's");
    issuer.hold(key_set(&["k2"]), Some("https://idp.example/jwks".into())).unwrap();
    assert_eq!(issuer.for_gate().unwrap().jwks_uri.as_deref(), Some("https://idp.example/jwks"));
}
