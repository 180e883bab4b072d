use std::pin::pin;

use resilience::{FixedPool, Tier};
use service_kit::metrics::Registry;
use tokio::time::sleep;

use super::*;
use crate::answer::{Origin, assistant_message};

const PATIENCE: Duration = Duration::from_secs(1);

fn seats() -> (Lead, Joined) {
    let flights = Flights::default();
    let key = CacheKey::of_digest([7; 32]);
    let (Seat::Leader(lead), Seat::Follower(follower)) = (flights.join(key, false), flights.join(key, false))
    else {
        panic!("the first leads and the second follows")
    };
    (lead, Joined::Follows { follower, patience: PATIENCE })
}

fn landed() -> Landed {
    Landed {
        tier: Arc::new(Tier::of_pool("max", Arc::new(FixedPool::new(Vec::new())))),
        answer: Answer {
            message: assistant_message("hi".into()),
            finish_reason: wire::FinishReason::Stop,
            usage: None,
            origin: Origin::model("m"),
        },
        served_by: wire::ServedBy::default(),
    }
}

/// What comes of a follower whose leader lands, or ends, after a time, and whose own walk takes a time. With how long that took.
async fn follow(leader: Duration, lands: bool, own: Duration) -> (Came<()>, Duration) {
    let (lead, joined) = seats();
    let metrics = ChainMetrics::register(&mut Registry::default());
    let began = Instant::now();
    let leading = async {
        sleep(leader).await;
        if lands {
            lead.land(landed);
        } else {
            drop(lead);
        }
    };
    let following = async {
        let came = joined.or_own(pin!(async { sleep(own).await }), &metrics, &Trail::new()).await;
        (came, began.elapsed())
    };
    tokio::join!(following, leading).0
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_lands_in_time_spares_the_call() {
    let (came, took) = follow(PATIENCE / 2, true, Duration::ZERO).await;
    assert!(matches!(came, Came::Shared(_)));
    assert_eq!(took, PATIENCE / 2);
}

#[tokio::test(start_paused = true)]
async fn when_patience_ends_the_first_to_answer_wins() {
    let (came, took) = follow(2 * PATIENCE, true, 3 * PATIENCE).await;
    assert!(matches!(came, Came::Shared(_)));
    assert_eq!(took, 2 * PATIENCE);
    let (came, took) = follow(9 * PATIENCE, true, PATIENCE).await;
    assert!(matches!(came, Came::Own((), None)));
    assert_eq!(took, 2 * PATIENCE);
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_ends_without_an_answer_is_not_waited_for() {
    for ends in [PATIENCE / 2, 3 * PATIENCE / 2] {
        let (came, took) = follow(ends, false, PATIENCE).await;
        assert!(matches!(came, Came::Own((), None)));
        assert_eq!(took, ends.min(PATIENCE) + PATIENCE);
    }
}
