use std::time::Duration;

use super::*;

fn leader(flights: &Flights<u8, u32>) -> Leader<u8, u32> {
    match flights.join(1) {
        Seat::Leader(leader) => leader,
        Seat::Follower(_) => panic!("somebody leads already"),
    }
}

fn follower(flights: &Flights<u8, u32>) -> Follower<u32> {
    match flights.join(1) {
        Seat::Follower(follower) => follower,
        Seat::Leader(_) => panic!("nobody leads"),
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(5)
}

#[tokio::test(start_paused = true)]
async fn followers_get_the_leaders_answer() {
    let flights = Flights::default();
    let leader = leader(&flights);
    let (one, other) = (follower(&flights), follower(&flights));
    leader.land(|| 7);
    assert_eq!(one.landed(soon()).await.as_deref(), Some(&7));
    assert_eq!(other.landed(soon()).await.as_deref(), Some(&7));
}

#[tokio::test(start_paused = true)]
async fn other_questions_are_not_followed() {
    let flights = Flights::default();
    let _leader = leader(&flights);
    assert!(matches!(flights.join(2), Seat::Leader(_)));
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_ends_without_an_answer_lets_its_followers_go_at_once() {
    let flights = Flights::default();
    let leader = leader(&flights);
    let follower = follower(&flights);
    let asked = Instant::now();
    drop(leader);
    assert_eq!(follower.landed(soon()).await, None);
    assert_eq!(asked.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_follower_waits_no_longer_than_it_says() {
    let flights = Flights::default();
    let _leader = leader(&flights);
    let asked = Instant::now();
    assert_eq!(follower(&flights).landed(asked + Duration::from_secs(1)).await, None);
    assert_eq!(asked.elapsed(), Duration::from_secs(1));
}

#[test]
fn nothing_is_kept_of_a_flight_that_is_over() {
    let flights = Flights::default();
    leader(&flights).land(|| panic!("nobody wants it"));
    drop(leader(&flights));
    assert!(flights.under_way.lock().is_empty());
}

#[test]
fn a_leader_that_has_landed_does_not_end_the_next_ones_flight() {
    let flights = Flights::default();
    let first = leader(&flights);
    first.leave();
    let _second = leader(&flights);
    drop(first);
    assert!(matches!(flights.join(1), Seat::Follower(_)));
}
