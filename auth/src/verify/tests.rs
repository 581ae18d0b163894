use super::*;
use crate::jwks::{IssuerConfig, Options};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use serde_json::json;

const ISSUER: &str = "https://idp.example";
const NOW: u64 = 1_800_000_000;

/// An issuer with one key of ours: any bytes can be signed, also those that no library would write.
struct World {
    key: Ed25519KeyPair,
    verifier: Verifier,
}

// === impl World ===

impl World {
    fn new() -> Self {
        crate::install_crypto();
        let key = Ed25519KeyPair::generate().unwrap();
        let x = URL_SAFE_NO_PAD.encode(key.public_key());
        let jwk = json!({ "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": "k", "x": x });
        let config = IssuerConfig {
            issuer: ISSUER.into(),
            jwks_uri: None,
            jwks: Some(json!({ "keys": [jwk] })),
            email_verified_default: false,
            groups_claim: "groups".into(),
        };
        let fetcher = crate::fetch::Fetcher::new(Duration::from_secs(1), None).unwrap();
        let issuer = Arc::new(Issuer::new(config, Options::default(), fetcher).unwrap());
        let verifier = Verifier::new(vec![issuer], vec!["ours".into()], VerifierOptions::default());
        Self { key, verifier }
    }

    fn sign(&self, header: &[u8], payload: &[u8]) -> String {
        let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
        let signature = self.key.sign(message.as_bytes());
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
    }

    async fn check(&self, token: &str, now: u64) -> Result<Arc<Identity>, Error> {
        self.verifier.verify_at(token, Verifier::digest(token), now).await
    }

    /// What is said of these claims, the time being [`NOW`].
    async fn claims(&self, payload: &str) -> Result<Arc<Identity>, Error> {
        self.check(&self.sign(HEADER, payload.as_bytes()), NOW).await
    }

    async fn header(&self, header: &str) -> Result<Arc<Identity>, Error> {
        self.check(&self.sign(header.as_bytes(), good("").as_bytes()), NOW).await
    }
}

const HEADER: &[u8] = br#"{"alg":"EdDSA","kid":"k","typ":"at+jwt"}"#;

/// Claims that are accepted, with more in front.
fn good(more: &str) -> String {
    format!(r#"{{{more}"iss":"{ISSUER}","sub":"s","aud":"ours","exp":{}}}"#, NOW + 60)
}

#[tokio::test]
async fn a_claim_that_is_there_twice_refuses_the_token() {
    let w = World::new();
    assert_eq!(w.claims(&good("")).await.unwrap().subject, "s");
    for twice in [r#""sub":"root","#, r#""email":"a@b.c","email":"d@e.f","#, r#""exp":99999999999,"#] {
        assert_eq!(w.claims(&good(twice)).await, Err(Error::Malformed("its claims")), "{twice}");
    }
}

#[tokio::test]
async fn bytes_that_two_readers_could_read_differently_are_refused() {
    let w = World::new();
    let claims = good("");
    for tail in ["{}", "x", "\0"] {
        assert_eq!(
            w.claims(&format!("{claims}{tail}")).await,
            Err(Error::Malformed("its claims")),
            "{tail:?}"
        );
    }
    let utf8 = w.check(&w.sign(HEADER, b"{\"sub\":\"\xff\"}"), NOW).await;
    assert_eq!(utf8, Err(Error::Malformed("a part is not UTF-8")));
    let token = w.sign(HEADER, claims.as_bytes());
    for odd in [
        format!("{token}="),
        format!("{token}."),
        format!(" {token}"),
        token.replace('.', ".."),
        String::new(),
    ] {
        assert!(w.check(&odd, NOW).await.is_err(), "{odd}");
    }
}

#[tokio::test]
async fn a_header_never_chooses_algorithm_key_or_extension() {
    let w = World::new();
    for (header, why) in [
        (r#"{"alg":"EdDSA","kid":"k","crit":["exp"]}"#, Error::CriticalHeader),
        (r#"{"alg":"EdDSA","kid":"k","crit":[]}"#, Error::CriticalHeader),
        (r#"{"alg":"EdDSA","kid":"k","b64":false}"#, Error::CriticalHeader),
        (r#"{"alg":"EdDSA","kid":"k","zip":"DEF"}"#, Error::CriticalHeader),
        (r#"{"alg":"EdDSA","kid":"k","typ":"logout+jwt"}"#, Error::Type),
        (r#"{"alg":"none","kid":"k"}"#, Error::Algorithm),
        (r#"{"alg":"HS256","kid":"k"}"#, Error::Algorithm),
        (r#"{"alg":"RS256","kid":"k"}"#, Error::Algorithm),
        (r#"{"alg":"EdDSA","kid":"other","jku":"https://evil.example"}"#, Error::KeyUnknown),
        (r#"{"alg":"EdDSA","alg":"EdDSA","kid":"k"}"#, Error::Malformed("its header")),
    ] {
        assert_eq!(w.header(header).await, Err(why), "{header}");
    }
    // no kid: the only key of that algorithm; a key in the header is nobody's
    w.header(r#"{"alg":"EdDSA"}"#).await.unwrap();
    w.header(r#"{"alg":"EdDSA","kid":"k","typ":"application/JWT"}"#).await.unwrap();
}

#[tokio::test]
async fn times_are_whole_numbers_with_half_a_minute_of_leeway() {
    let w = World::new();
    let token = w.sign(HEADER, good("").as_bytes());
    assert!(w.check(&token, NOW + 60 + 29).await.is_ok());
    assert_eq!(w.check(&token, NOW + 60 + 30).await, Err(Error::Expired));
    for (claim, why) in [
        (format!(r#""nbf":{},"#, NOW + 31), Error::NotYetValid),
        (format!(r#""iat":{},"#, NOW + 31), Error::NotYetValid),
        (r#""nbf":"soon","#.to_owned(), Error::Claim("nbf")),
        (r#""iat":1.5,"#.to_owned(), Error::Claim("iat")),
        (r#""nbf":-1,"#.to_owned(), Error::Claim("nbf")),
    ] {
        assert_eq!(w.claims(&good(&claim)).await, Err(why), "{claim}");
    }
    w.claims(&good(&format!(r#""nbf":{},"iat":{},"#, NOW + 30, NOW + 30))).await.unwrap();
    let without = format!(r#"{{"iss":"{ISSUER}","sub":"s","aud":"ours"}}"#);
    assert_eq!(w.claims(&without).await, Err(Error::Claim("exp")));
}

#[tokio::test]
async fn an_audience_is_a_text_or_a_list_of_texts_with_ours() {
    let w = World::new();
    let with = |aud: &str| good("").replace(r#""ours""#, aud);
    w.claims(&with(r#"["other","ours"]"#)).await.unwrap();
    for (aud, why) in [
        (r#"["other"]"#, Error::Audience),
        ("[]", Error::Audience),
        (r#""OURS""#, Error::Audience),
        (r#"["ours",1]"#, Error::Claim("aud")),
        (r#"{"ours":1}"#, Error::Claim("aud")),
        ("null", Error::Claim("aud")),
    ] {
        assert_eq!(w.claims(&with(aud)).await, Err(why), "{aud}");
    }
}

#[tokio::test]
async fn an_address_counts_as_verified_only_when_the_issuer_says_true() {
    let w = World::new();
    for (said, verified) in [
        (r#""email_verified":true,"#, true),
        (r#""email_verified":"true","#, false),
        (r#""email_verified":1,"#, false),
        (r#""email_verified":false,"#, false),
        ("", false),
    ] {
        let who = w.claims(&good(&format!(r#""email":"Alice@Example.com",{said}"#))).await.unwrap();
        assert_eq!(
            (who.email.as_deref(), who.email_verified),
            (Some("alice@example.com"), verified),
            "{said}"
        );
    }
    let odd = w.claims(&good(r#""email":"a b@c","email_verified":true,"groups":"one","#)).await.unwrap();
    assert_eq!(
        (odd.email.as_deref(), odd.email_verified, odd.groups.as_slice()),
        (None, false, &["one".to_owned()][..])
    );
    let mixed = w.claims(&good(r#""groups":["a",1,null,"b"],"#)).await.unwrap();
    assert_eq!(mixed.groups, ["a", "b"]);
}

#[tokio::test]
async fn a_remembered_token_ends_with_itself() {
    let w = World::new();
    let now = crate::unix_now();
    let claims = |exp: u64| format!(r#"{{"iss":"{ISSUER}","sub":"s","aud":"ours","exp":{exp}}}"#);
    let token = w.sign(HEADER, claims(now + 60).as_bytes());
    w.verifier.verify(&token).await.unwrap();
    assert_eq!(w.verifier.cache.len(), 1);
    w.verifier.verify(&token).await.unwrap();
    // in the leeway: good, and looked at anew each time
    let late = w.sign(HEADER, claims(now - 10).as_bytes());
    w.verifier.verify(&late).await.unwrap();
    let over = w.sign(HEADER, claims(now - 31).as_bytes());
    assert_eq!(w.verifier.verify(&over).await, Err(Error::Expired));
    // one that was changed is another token
    let (message, signature) = token.rsplit_once('.').unwrap();
    let first = if signature.starts_with('A') { 'B' } else { 'A' };
    let changed = format!("{message}.{first}{}", &signature[1..]);
    assert_eq!(w.verifier.verify(&changed).await, Err(Error::Signature));
}
