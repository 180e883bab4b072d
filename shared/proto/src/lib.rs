//! ai-platform's protobuf API: messages, clients, servers and the descriptor set, generated from `proto/`.
//!
//! Enum prefixes are stripped as prost does it: `ROLE_USER` is [`inference::v1::Role::User`].

use prost::Message as _;

pub mod codec;
pub mod json;
pub mod time;
pub mod validation;

/// Chat: `aiplatform.inference`.
pub mod inference {
    /// Version 1.
    #[allow(
        clippy::pedantic,
        missing_docs,
        unreachable_pub,
        unused_qualifications,
        clippy::allow_attributes_without_reason,
        reason = "generated code does not keep the workspace's lints"
    )]
    pub mod v1 {
        tonic::include_proto!("aiplatform.inference.v1");
    }
}

/// Circuit breakers and fallback chains: `aiplatform.resilience`.
pub mod resilience {
    /// Version 1.
    #[allow(
        clippy::pedantic,
        missing_docs,
        unreachable_pub,
        unused_qualifications,
        clippy::allow_attributes_without_reason,
        reason = "generated code does not keep the workspace's lints"
    )]
    pub mod v1 {
        tonic::include_proto!("aiplatform.resilience.v1");
    }
}

/// Well-known types that fields of these messages have.
pub use prost_types::{Duration, Struct, Timestamp};

/// The methods of some of these services, as `package.Service/Method`.
///
/// `services` are fully qualified names; unknown ones have no methods.
pub fn methods<'a>(services: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    // The bytes were made by the build script of this crate; should they ever not decode, no method is known.
    let descriptors = prost_types::FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap_or_default();
    let wanted: Vec<&str> = services.into_iter().collect();
    let all = descriptors.file.iter().flat_map(|file| {
        file.service
            .iter()
            .map(move |service| (format!("{}.{}", file.package(), service.name()), &service.method))
    });
    all.filter(|(name, _)| wanted.contains(&name.as_str()))
        .flat_map(|(name, methods)| methods.iter().map(move |method| format!("{name}/{}", method.name())))
        .collect()
}

/// The encoded `google.protobuf.FileDescriptorSet` of everything in this crate, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

#[cfg(test)]
mod tests {
    #[test]
    fn the_methods_of_a_service_are_known() {
        let service = "aiplatform.inference.v1.InferenceService";
        let expected = ["Chat", "StreamChat", "ListModels"].map(|method| format!("{service}/{method}"));
        assert_eq!(super::methods([service, "no.such.Service"]), expected);
    }
}
