//! The login with a browser on this machine: authorization code with PKCE, back to a port of loopback (RFC 8252).
use super::{Ask, Ctx, browse};
use crate::{
    failure::Failure,
    login::{self, Tokens, browser_client},
};
use oauth2::{AuthorizationCode, CsrfToken, HttpRequest, PkceCodeChallenge, url::Url};
use std::{collections::HashMap, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// As long as a person may take.
const LIMIT: Duration = Duration::from_secs(600);
/// One that connects and says nothing is not waited for.
const HEAD: Duration = Duration::from_secs(5);
const MAX_HEAD: usize = 16 << 10;

/// Shows the login page and waits for its answer.
///
/// # Errors
/// When the provider does not let us in.
pub(super) async fn login(ask: &Ask<'_>, ctx: &Ctx<'_>) -> Result<Tokens, Failure> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let back = format!("http://127.0.0.1:{}/callback", listener.local_addr()?.port());
    let client = browser_client(ask.provider, &ask.args.client_id, back)?;
    let (challenge, verifier) = PkceCodeChallenge::new_random_sha256();
    let mut page = client.authorize_url(CsrfToken::new_random).add_scopes(ask.scopes());
    for (name, value) in ask.audiences() {
        page = page.add_extra_param(name, value);
    }
    if let Some((name, value)) = ask.prompt() {
        page = page.add_extra_param(name, value);
    }
    let (page, state) = page.set_pkce_challenge(challenge).url();
    eprintln!("Open {page}");
    browse(page.as_str());
    let limit = ctx.global.timeout.unwrap_or(LIMIT);
    let code = tokio::time::timeout(limit, answer(&listener, state.secret(), &ask.at.issuer))
        .await
        .map_err(|_| ask.failed("nobody logged in"))??
        .map_err(|why| ask.failed(&why))?;
    let mut exchange = client.exchange_code(AuthorizationCode::new(code)).set_pkce_verifier(verifier);
    if let Some(a) = &ask.at.audience {
        exchange = exchange.add_extra_param(login::audience_parameter(a), a.clone());
    }
    let send = |r: HttpRequest| login::send(ask.http.clone(), r);
    exchange.request_async(&send).await.map_err(|e| ask.refused(&e))
}

/// Waits for the browser to come back. Whatever else calls the port is turned away.
async fn answer(
    listener: &TcpListener,
    state: &str,
    issuer: &str,
) -> Result<Result<String, String>, Failure> {
    loop {
        let (mut stream, _) = listener.accept().await?;
        let Ok(Some(target)) = tokio::time::timeout(HEAD, target(&mut stream)).await else { continue };
        let found = code(&target, state, issuer);
        let (status, text) = match &found {
            None => ("404 Not Found", "nothing here"),
            Some(Ok(_)) => ("200 OK", "You are logged in. This page can be closed."),
            Some(Err(_)) => ("400 Bad Request", "Not logged in: the terminal says why."),
        };
        let page = format!(
            "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}",
            text.len()
        );
        // the browser may be gone: the code counts
        let _ = stream.write_all(page.as_bytes()).await;
        let _ = stream.shutdown().await;
        if let Some(found) = found {
            return Ok(found);
        }
    }
}

/// The target of a GET request.
async fn target(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.windows(4).any(|w| w == b"\r\n\r\n") {
        if head.len() > MAX_HEAD || stream.read_buf(&mut head).await.ok()? == 0 {
            return None;
        }
    }
    let text = String::from_utf8(head).ok()?;
    Some(text.strip_prefix("GET ")?.split(' ').next()?.to_owned())
}

/// The code in a callback, or why there is none; `None` when it is not our callback: only the state says that it is.
fn code(target: &str, state: &str, issuer: &str) -> Option<Result<String, String>> {
    let url = Url::parse("http://127.0.0.1").ok()?.join(target).ok()?;
    let all: HashMap<String, String> = url.query_pairs().into_owned().collect();
    if url.path() != "/callback" || all.get("state").is_none_or(|s| !syp_auth::same_secret(s, state)) {
        return None;
    }
    // RFC 9207: an answer of another provider is not an answer
    if all.get("iss").is_some_and(|i| i != issuer) {
        return Some(Err("the answer came from another issuer".into()));
    }
    Some(match (all.get("error"), all.get("code")) {
        (Some(e), _) => Err(all.get("error_description").map_or_else(|| e.clone(), |d| format!("{e}: {d}"))),
        (None, Some(code)) => Ok(code.clone()),
        (None, None) => Err("the answer has no code".into()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_provider_with_our_state_is_listened_to() {
        let ask = |target: &str| code(target, "s1", "https://idp");
        assert_eq!(ask("/callback?code=c&state=s1&iss=https%3A%2F%2Fidp"), Some(Ok("c".into())));
        assert_eq!(ask("/callback?code=c&state=s1"), Some(Ok("c".into())));
        assert_eq!(ask("/callback?code=c&state=s2"), None);
        assert_eq!(ask("/callback?code=c"), None);
        assert_eq!(ask("/favicon.ico?state=s1"), None);
        assert!(ask("/callback?code=c&state=s1&iss=https%3A%2F%2Fevil").unwrap().is_err());
        assert!(
            ask("/callback?error=access_denied&state=s1").unwrap().unwrap_err().contains("access_denied")
        );
    }
}
