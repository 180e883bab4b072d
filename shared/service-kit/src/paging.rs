//! Pages of lists.

use tonic::Status;

use crate::status::Reason;

const DEFAULT_SIZE: usize = 50;
const MAX_SIZE: usize = 1000;

/// One page of a list that is sorted by `key`, and the token of the next page (empty when there is none).
///
/// The token is the key of the page's last item, so that items which come or go between two pages are neither shown
/// twice nor make others disappear.
///
/// # Errors
/// The token is not one of ours.
pub fn page<T>(
    items: Vec<T>,
    key: impl Fn(&T) -> String,
    page_size: u32,
    page_token: &str,
) -> Result<(Vec<T>, String), Status> {
    let size = match usize::try_from(page_size).unwrap_or(MAX_SIZE) {
        0 => DEFAULT_SIZE,
        size => size.min(MAX_SIZE),
    };
    let after = decode(page_token)?;
    let mut rest = items.into_iter().filter(|item| after.as_ref().is_none_or(|after| key(item) > *after));
    let page: Vec<T> = rest.by_ref().take(size).collect();
    let more = rest.next().is_some();
    let token = page.last().filter(|_| more).map(|last| encode(&key(last))).unwrap_or_default();
    Ok((page, token))
}

fn encode(key: &str) -> String {
    key.bytes().fold(String::with_capacity(key.len() * 2), |mut token, byte| {
        for nibble in [byte >> 4, byte & 0xf] {
            token.extend(char::from_digit(nibble.into(), 16));
        }
        token
    })
}

fn decode(token: &str) -> Result<Option<String>, Status> {
    if token.is_empty() {
        return Ok(None);
    }
    let bytes: Option<Vec<u8>> = token
        .as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect();
    let key = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
    key.map(Some).ok_or_else(|| {
        let rule = "must be the next_page_token of an earlier page";
        Reason::InvalidRequest.status(format!("page_token: {rule}")).field("page_token", rule).build()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pages(size: u32) -> Vec<Vec<char>> {
        let mut token = String::new();
        let mut pages = Vec::new();
        loop {
            let (page, next) = page(('a'..='e').collect(), char::to_string, size, &token).unwrap();
            pages.push(page);
            token = next;
            if token.is_empty() {
                return pages;
            }
        }
    }

    #[test]
    fn pages_cover_the_list_once() {
        assert_eq!(pages(2), [vec!['a', 'b'], vec!['c', 'd'], vec!['e']]);
        assert_eq!(pages(5), [('a'..='e').collect::<Vec<_>>()]);
        assert_eq!(pages(0).len(), 1);
    }

    #[test]
    fn a_token_of_somebody_elses_is_refused() {
        for token in ["x", "zz", "ff"] {
            let status = page(vec!['a'], char::to_string, 1, token).unwrap_err();
            assert_eq!(status.code(), tonic::Code::InvalidArgument);
        }
    }
}
