//! The login of a server with an identity provider: its token, kept in a private file and renewed when it ends.
use crate::{client::now_s, exit, failure::Failure, http, paths};
use http_body_util::{BodyExt, Full, Limited};
use oauth2::{
    AuthUrl, Client, ClientId, DeviceAuthorizationUrl, EndpointNotSet, EndpointSet, ExtraTokenFields,
    HttpRequest, HttpResponse, RedirectUrl, RefreshToken, RequestTokenError, StandardRevocableToken,
    StandardTokenResponse, TokenResponse, TokenUrl,
    basic::{
        BasicErrorResponse, BasicRevocationErrorResponse, BasicTokenIntrospectionResponse, BasicTokenType,
    },
};
use serde::{Deserialize, Serialize};
use std::{io, path::Path, time::Duration};

const LIMIT: Duration = Duration::from_secs(30);
/// A token for instances is renewed this long before it ends.
const APP_MARGIN_S: i64 = 30;

/// What is kept of a login.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Login {
    /// The provider.
    pub issuer: String,
    /// Our client there.
    pub client_id: String,
    /// The audience that was asked for.
    pub audience: Option<String>,
    /// The audience of tokens for instances, when it is another one.
    #[serde(default)]
    pub app_audience: Option<String>,
    #[serde(default)]
    app: Option<AppToken>,
    token_endpoint: String,
    access_token: String,
    id_token: Option<String>,
    refresh_token: Option<String>,
    /// Seconds since 1970.
    pub expires: i64,
}

/// A token for instances.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct AppToken {
    token: String,
    expires: i64,
}

/// Where a server wants us to log in.
#[derive(Clone, Debug, Default)]
pub struct Place {
    /// The provider.
    pub issuer: String,
    /// The audience of tokens for the server.
    pub audience: Option<String>,
    /// The audience of tokens for its instances.
    pub app_audience: Option<String>,
}

/// What we read of a provider's discovery document.
#[derive(Debug, Deserialize)]
pub struct Discovery {
    issuer: String,
    token_endpoint: String,
    authorization_endpoint: Option<String>,
    device_authorization_endpoint: Option<String>,
}

/// The ID token beside the access token.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct IdToken {
    id_token: Option<String>,
}

impl ExtraTokenFields for IdToken {}

/// A token answer with its ID token.
pub type Tokens = StandardTokenResponse<IdToken, BasicTokenType>;
type Oauth<D, A = EndpointNotSet> = Client<
    BasicErrorResponse,
    Tokens,
    BasicTokenIntrospectionResponse,
    StandardRevocableToken,
    BasicRevocationErrorResponse,
    A,
    D,
    EndpointNotSet,
    EndpointNotSet,
    EndpointSet,
>;

/// What to say when there is no login.
pub fn needed() -> Failure {
    Failure::new(
        exit::UNAUTHENTICATED,
        "TOKEN_MISSING",
        "not logged in",
        "'sypctl login --issuer URL', or put a token into SYPCTL_TOKEN",
    )
}

// === impl Login ===

impl Login {
    fn file(data_dir: &Path) -> std::path::PathBuf {
        data_dir.join("login.json")
    }

    /// The login that is kept, if any.
    pub fn load(data_dir: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(Self::file(data_dir)).ok()?).ok()
    }

    /// Keeps it, for its owner's eyes only.
    ///
    /// # Errors
    /// As the file system says.
    pub fn save(&self, data_dir: &Path) -> io::Result<()> {
        paths::private_dir(data_dir)?;
        paths::write_private(&Self::file(data_dir), &serde_json::to_vec_pretty(self)?)
    }

    /// Forgets it; was there one?
    ///
    /// # Errors
    /// As the file system says.
    pub fn forget(data_dir: &Path) -> io::Result<bool> {
        match std::fs::remove_file(Self::file(data_dir)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            other => other.map(|()| true),
        }
    }

    /// Can it go on without a person when its token ends?
    pub fn can_renew(&self) -> bool {
        self.refresh_token.is_some()
    }

    /// The token for calls: the access token when it is a JWT, else the ID token.
    pub fn bearer(&self) -> &str {
        match &self.id_token {
            Some(id) if self.access_token.split('.').count() != 3 => id,
            _ => &self.access_token,
        }
    }

    /// From a token answer.
    pub fn of(t: &Tokens, d: &Discovery, client_id: &str, at: &Place) -> Self {
        let mut l = Self {
            issuer: d.issuer.clone(),
            client_id: client_id.into(),
            audience: at.audience.clone(),
            app_audience: at.app_audience.clone(),
            token_endpoint: d.token_endpoint.clone(),
            ..Default::default()
        };
        l.take(t);
        l
    }

    fn take(&mut self, t: &Tokens) {
        self.access_token = t.access_token().secret().clone();
        self.id_token = t.extra_fields().id_token.clone().or_else(|| self.id_token.take());
        // providers that rotate send a new one, others let us keep ours
        self.refresh_token =
            t.refresh_token().map(|r| r.secret().clone()).or_else(|| self.refresh_token.take());
        self.expires = ends(t);
    }

    /// With a new token from the provider.
    ///
    /// # Errors
    /// With exit code 4 when one has to log in again.
    pub async fn renewed(mut self, ca: Option<&Path>) -> Result<Self, Failure> {
        let tokens = self.refresh(self.audience.as_deref(), ca).await?;
        self.take(&tokens);
        Ok(self)
    }

    /// A token for instances: another audience than the server's, so that neither takes the other's.
    ///
    /// # Errors
    /// With exit code 4 when one has to log in again.
    pub async fn for_apps(mut self, data_dir: &Path, ca: Option<&Path>) -> Result<String, Failure> {
        let Some(audience) = self.app_audience.clone() else { return Ok(self.bearer().to_owned()) };
        if let Some(kept) = self.app.as_ref().filter(|t| t.expires - APP_MARGIN_S > now_s()) {
            return Ok(kept.token.clone());
        }
        let tokens = self.refresh(Some(&audience), ca).await?;
        let token = tokens.access_token().secret().clone();
        if let Some(next) = tokens.refresh_token() {
            self.refresh_token = Some(next.secret().clone());
        }
        self.app = Some(AppToken { token: token.clone(), expires: ends(&tokens) });
        self.save(data_dir)?;
        Ok(token)
    }

    async fn refresh(&self, audience: Option<&str>, ca: Option<&Path>) -> Result<Tokens, Failure> {
        let again = |why: String| {
            Failure::new(
                exit::UNAUTHENTICATED,
                "TOKEN_EXPIRED",
                format!("the login at {} has ended{why}", self.issuer),
                format!("'sypctl login --issuer {}'", self.issuer),
            )
        };
        let Some(refresh) = self.refresh_token.clone() else { return Err(again(String::new())) };
        let client = oauth(&self.client_id, &self.token_endpoint)?;
        let http = http::client(http::Trust::of(ca))?;
        let send = |r: HttpRequest| send(http.clone(), r);
        let refresh = RefreshToken::new(refresh);
        let mut ask = client.exchange_refresh_token(&refresh);
        if let Some(a) = audience {
            ask = ask.add_extra_param(audience_parameter(a), a.to_owned());
        }
        ask.request_async(&send).await.map_err(|e| match e {
            RequestTokenError::ServerResponse(_) => again(format!(": {}", chain(&e))),
            // it may be a good login still
            e => Failure::new(
                exit::UNAVAILABLE,
                "ISSUER_UNREACHABLE",
                format!("{}: {}", self.issuer, chain(&e)),
                "the login is kept: try again when the provider answers",
            ),
        })
    }
}

fn ends(t: &Tokens) -> i64 {
    let life = t.expires_in().unwrap_or(Duration::from_secs(300));
    now_s() + i64::try_from(life.as_secs()).unwrap_or(300)
}

/// Some providers know `resource` (RFC 8707, a URI), others `audience`.
pub fn audience_parameter(audience: &str) -> &'static str {
    if audience.contains(':') { "resource" } else { "audience" }
}

fn url<T>(
    what: &str,
    text: &str,
    make: impl Fn(String) -> Result<T, oauth2::url::ParseError>,
) -> Result<T, Failure> {
    make(text.to_owned()).map_err(|e| Failure::usage(format!("{what} '{text}': {e}")))
}

fn oauth(client_id: &str, token_endpoint: &str) -> Result<Oauth<EndpointNotSet>, Failure> {
    Ok(Client::new(ClientId::new(client_id.to_owned())).set_token_uri(url(
        "token endpoint",
        token_endpoint,
        TokenUrl::new,
    )?))
}

/// The client of a device login.
///
/// # Errors
/// When the provider offers none.
pub fn device_client(d: &Discovery, client_id: &str) -> Result<Oauth<EndpointSet>, Failure> {
    let Some(endpoint) = &d.device_authorization_endpoint else {
        return Err(Failure::new(
            exit::FAILED,
            "DEVICE_LOGIN_UNSUPPORTED",
            format!("{} offers no device login (RFC 8628)", d.issuer),
            "get a token by other means and put it into SYPCTL_TOKEN",
        ));
    };
    let endpoint = url("device endpoint", endpoint, DeviceAuthorizationUrl::new)?;
    Ok(oauth(client_id, &d.token_endpoint)?.set_device_authorization_url(endpoint))
}

/// The client of a login with a browser.
///
/// # Errors
/// When the provider offers none.
pub fn browser_client(
    d: &Discovery,
    client_id: &str,
    redirect: String,
) -> Result<Oauth<EndpointNotSet, EndpointSet>, Failure> {
    let Some(endpoint) = &d.authorization_endpoint else {
        return Err(Failure::new(
            exit::FAILED,
            "LOGIN_FAILED",
            format!("{} has no login page", d.issuer),
            "'sypctl login --device'",
        ));
    };
    let redirect = url("redirect", &redirect, RedirectUrl::new)?;
    let client = oauth(client_id, &d.token_endpoint)?.set_redirect_uri(redirect);
    Ok(client.set_auth_uri(url("login page", endpoint, AuthUrl::new)?))
}

/// Reads a provider's discovery document; it must be the one of that issuer.
///
/// # Errors
/// When it can't be had, or is somebody else's.
pub async fn discover(issuer: &str, ca: Option<&Path>) -> Result<Discovery, Failure> {
    let failed = |why: String| {
        Failure::new(
            exit::UNAVAILABLE,
            "ISSUER_UNREACHABLE",
            format!("{issuer}: {why}"),
            "check the URL; it is the issuer's, byte for byte",
        )
    };
    let at = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
    let request = ::http::Request::get(at).body(Vec::new()).map_err(|e| failed(e.to_string()))?;
    let answer =
        send(http::client(http::Trust::of(ca))?, request).await.map_err(|e| failed(e.to_string()))?;
    if !answer.status().is_success() {
        return Err(failed(format!("discovery answers {}", answer.status())));
    }
    let d: Discovery =
        serde_json::from_slice(answer.body()).map_err(|e| failed(format!("discovery: {e}")))?;
    if d.issuer != issuer {
        return Err(failed(format!("discovery is of '{}'", d.issuer)));
    }
    Ok(d)
}

/// One request, with limits.
///
/// # Errors
/// As text: connection, time, size.
pub async fn send(http: http::Http, request: HttpRequest) -> Result<HttpResponse, io::Error> {
    let (parts, body) = request.into_parts();
    let request = ::http::Request::from_parts(parts, Full::new(body.into()));
    let go = async {
        let answer = http.request(request).await.map_err(|e| io::Error::other(chain(&e)))?;
        let (parts, body) = answer.into_parts();
        let bytes = Limited::new(body, 1 << 20).collect().await.map_err(io::Error::other)?.to_bytes();
        Ok(::http::Response::from_parts(parts, bytes.to_vec()))
    };
    tokio::time::timeout(LIMIT, go)
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no answer within 30 s"))?
}

/// An error with its causes.
pub fn chain(e: &dyn std::error::Error) -> String {
    let mut out = e.to_string();
    let mut next = e.source();
    while let Some(s) = next {
        let text = s.to_string();
        if !out.contains(&text) {
            out = format!("{out}: {text}");
        }
        next = s.source();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opaque_access_tokens_give_way_to_the_id_token() {
        let l = Login { access_token: "opaque".into(), id_token: Some("a.b.c".into()), ..Default::default() };
        assert_eq!(l.bearer(), "a.b.c");
        let l = Login { access_token: "x.y.z".into(), id_token: Some("a.b.c".into()), ..Default::default() };
        assert_eq!(l.bearer(), "x.y.z");
        assert_eq!(
            (audience_parameter("urn:aud:x"), audience_parameter("syp-api")),
            ("resource", "audience")
        );
    }
}
