//! What keeps a request to a backend: the session that it names, or else what its conversation begins with.
//!
//! A server's cache of a prompt serves every prompt that begins the same. Later turns of a conversation all begin with the system
//! prompt and the user's first message, so these are what is hashed: neither less, or all conversations of an agent would
//! meet one server, nor more, or the turns of one would scatter.

use aiplatform_proto::inference::v1::Role;
use prost::Message as _;
use resilience::stable_hash;

use crate::chat::Chat;
use crate::config::Affinity;

/// The lowest bit of a key says what it is made of, because the tiers of one chain may go by different things.
const SESSION: u64 = 1;

/// The key of a chat in a chain whose tiers want at most this. `None`: any backend is as good as any other.
pub(crate) fn key(chat: &Chat, wanted: Affinity) -> Option<u64> {
    let session = &chat.request().session;
    match wanted {
        Affinity::Session | Affinity::Prefix if !session.is_empty() => {
            Some(stable_hash(session.as_bytes()) | SESSION)
        }
        Affinity::None | Affinity::Session => None,
        Affinity::Prefix => Some(stable_hash(&beginning(chat)) & !SESSION),
    }
}

/// The messages up to the user's first, in bytes.
fn beginning(chat: &Chat) -> Vec<u8> {
    let mut bytes = Vec::new();
    for message in chat.messages() {
        bytes.extend(message.encode_length_delimited_to_vec());
        if message.role() == Role::User {
            break;
        }
    }
    bytes
}

/// The part of a key that a tier goes by.
pub(super) fn of_tier(affinity: Affinity, key: Option<u64>) -> Option<u64> {
    match affinity {
        Affinity::None => None,
        Affinity::Session => key.filter(|key| key & SESSION != 0),
        Affinity::Prefix => key,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::chat::tests::{chat, user};

    fn prefix(system: Option<&str>, texts: &[&str]) -> Option<u64> {
        let messages = texts.iter().map(|text| user(text)).collect();
        key(&chat(system, |request| request.messages = messages), Affinity::Prefix)
    }

    /// The key of a request that names a session.
    pub(in crate::pool) fn session_key(name: &str) -> u64 {
        key(&chat(None, |request| request.session = name.into()), Affinity::Session).unwrap()
    }

    #[test]
    fn the_turns_of_a_conversation_have_one_key() {
        assert_eq!(prefix(Some("be brief"), &["hi"]), prefix(Some("be brief"), &["hi", "and then?"]));
        assert_ne!(prefix(Some("be brief"), &["hi"]), prefix(Some("be brief"), &["ho"]));
        assert_ne!(prefix(Some("be brief"), &["hi"]), prefix(None, &["hi"]));
    }

    #[test]
    fn a_session_wins_over_the_beginning_and_only_it_counts_where_sessions_are_wanted() {
        let session = chat(None, |request| request.session = "s1".into());
        let plain = chat(None, |_| {});
        let keys = [Affinity::Session, Affinity::Prefix].map(|wanted| key(&session, wanted));
        assert!(keys[0].is_some() && keys[0] == keys[1]);
        assert_eq!(key(&plain, Affinity::Session), None);
        assert_eq!(key(&session, Affinity::None), None);
        let beginning = key(&plain, Affinity::Prefix);
        assert_eq!(of_tier(Affinity::Session, beginning), None);
        assert_eq!(of_tier(Affinity::Session, keys[0]), keys[0]);
        assert_eq!(of_tier(Affinity::Prefix, beginning), beginning);
        assert_eq!(of_tier(Affinity::None, keys[0]), None);
    }
}
