//! Conversions between `std::time` and protobuf's well-known types.

use std::time::{Duration, SystemTime};

/// A protobuf duration. One beyond protobuf's range (about 292 billion years) becomes the longest there is.
pub fn to_proto_duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or(0),
    }
}

/// A `std` duration. `None` when the protobuf duration is negative or not normalised.
pub fn from_proto_duration(duration: &prost_types::Duration) -> Option<Duration> {
    let seconds = u64::try_from(duration.seconds).ok()?;
    let nanos = u32::try_from(duration.nanos).ok()?;
    (nanos < 1_000_000_000).then(|| Duration::new(seconds, nanos))
}

/// A protobuf timestamp.
pub fn to_proto_timestamp(time: SystemTime) -> prost_types::Timestamp {
    prost_types::Timestamp::from(time)
}

/// A `std` time. `None` when the timestamp is out of range.
pub fn from_proto_timestamp(timestamp: &prost_types::Timestamp) -> Option<SystemTime> {
    SystemTime::try_from(*timestamp).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_survive_a_round_trip() {
        for duration in [Duration::ZERO, Duration::from_nanos(1), Duration::new(86_400, 999_999_999)] {
            assert_eq!(from_proto_duration(&to_proto_duration(duration)), Some(duration));
        }
    }

    #[test]
    fn negative_and_unnormalised_durations_are_refused() {
        for (seconds, nanos) in [(-1, 0), (0, -1), (0, 1_000_000_000)] {
            assert_eq!(from_proto_duration(&prost_types::Duration { seconds, nanos }), None);
        }
    }
}
