//! The headers that carry credentials.

use http::HeaderMap;
use http::header::{AUTHORIZATION, HeaderName};

use super::AuthFailure;
use super::gateway::{SECRET_HEADER, TENANT_HEADER};

/// The header of an API key for those who cannot set `authorization`.
const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// The key or token that a request brings: of `authorization: Bearer`, else of `x-api-key`. `None` when it has neither.
pub(super) fn credential(headers: &HeaderMap) -> Result<Option<&str>, AuthFailure> {
    if let Some(value) = only(headers, &AUTHORIZATION)? {
        let (scheme, token) = value.split_once(' ').ok_or(AuthFailure::Malformed)?;
        let token = token.trim();
        if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() {
            return Err(AuthFailure::Malformed);
        }
        return Ok(Some(token));
    }
    only(headers, &API_KEY)
}

/// The value of a header that may be given once: of two, nobody can tell which one is meant.
pub(super) fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, AuthFailure> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(AuthFailure::Malformed);
    }
    value.to_str().map(Some).map_err(|_| AuthFailure::Malformed)
}

/// Takes everything out that says or proves who calls.
pub(super) fn take_out(headers: &mut HeaderMap) {
    for name in [AUTHORIZATION, API_KEY, SECRET_HEADER, TENANT_HEADER] {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn headers(pairs: &[(HeaderName, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn a_credential_comes_in_one_of_two_headers_and_once() {
        let found = |pairs: &[(HeaderName, &'static str)]| {
            credential(&headers(pairs)).map(|text| text.map(str::to_owned))
        };
        let some = |text: &str| Ok(Some(text.to_owned()));
        assert_eq!(found(&[]), Ok(None));
        assert_eq!(found(&[(AUTHORIZATION, "Bearer k")]), some("k"));
        assert_eq!(found(&[(AUTHORIZATION, "bearer  k ")]), some("k"));
        assert_eq!(found(&[(API_KEY, "k")]), some("k"));
        assert_eq!(found(&[(AUTHORIZATION, "Bearer a"), (API_KEY, "b")]), some("a"));
        for wrong in ["k", "Bearer", "Bearer ", "Basic dTpw"] {
            assert_eq!(found(&[(AUTHORIZATION, wrong)]), Err(AuthFailure::Malformed), "{wrong}");
        }
    }

    #[test]
    fn two_of_a_kind_are_refused_and_nothing_is_left_for_those_behind() {
        let mut twice = headers(&[(API_KEY, "a")]);
        twice.append(API_KEY, HeaderValue::from_static("b"));
        assert_eq!(credential(&twice), Err(AuthFailure::Malformed));
        twice.insert(AUTHORIZATION, HeaderValue::from_static("Bearer x"));
        twice.insert(TENANT_HEADER, HeaderValue::from_static("t"));
        twice.insert(SECRET_HEADER, HeaderValue::from_static("s"));
        take_out(&mut twice);
        assert!(twice.is_empty(), "{twice:?}");
    }
}
