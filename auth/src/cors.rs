//! Origins of browser apps that may call an instance from another site.

use reqwest::Url;

/// An origin in the form in which browsers send it: scheme, host, and the port unless it is the scheme's own.
///
/// # Errors
/// In words: it is none.
pub fn origin(text: &str) -> Result<String, String> {
    let bad =
        || format!("'{text}' is not an origin; write https://app.example.com, with a port if it has one");
    let url = Url::parse(text).map_err(|_| bad())?;
    let plain = matches!(url.scheme(), "http" | "https")
        && url.host_str().is_some_and(|h| !h.is_empty() && !h.contains('*'))
        && url.path() == "/"
        && !text.ends_with('/')
        && !text.contains(['?', '#', '@', '\\'])
        && !text.contains(|c: char| c.is_whitespace() || c.is_control());
    if plain { Ok(url.origin().ascii_serialization()) } else { Err(bad()) }
}

#[cfg(test)]
mod tests {
    use super::origin;

    #[test]
    fn origins_are_scheme_host_and_port() {
        for (given, normal) in [
            ("https://app.example.com", "https://app.example.com"),
            ("HTTPS://App.Example.com:443", "https://app.example.com"),
            ("http://localhost:5173", "http://localhost:5173"),
            ("https://[::1]:8443", "https://[::1]:8443"),
        ] {
            assert_eq!(origin(given).unwrap(), normal);
            assert_eq!(origin(normal).unwrap(), normal);
        }
        for bad in [
            "",
            "*",
            "null",
            "app.example.com",
            "https://*.example.com",
            "https://app.example.com/",
            "https://app.example.com/x",
            "https://app.example.com?x",
            "https://app.example.com#x",
            "https://u:p@app.example.com",
            "ftp://app.example.com",
            "file:///x",
            "https://",
            "https://a b",
            "https:\\\\a",
        ] {
            assert!(origin(bad).is_err(), "{bad}");
        }
    }
}
