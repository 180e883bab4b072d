//! ai-platform's protobuf API: messages, clients, servers and the descriptor set, generated from `proto/`.
//!
//! Enum prefixes are stripped as prost does it: `ROLE_USER` is [`inference::v1::Role::User`].

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
pub use prost_types::{Duration, Timestamp};

/// The encoded `google.protobuf.FileDescriptorSet` of everything in this crate, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
