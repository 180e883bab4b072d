use super::*;

fn leader(flights: &Flights<u8, u32>) -> Leader<u8, u32> {
    match flights.join(1, false) {
        Seat::Leader(leader) => leader,
        Seat::Follower(_) => panic!("somebody leads already"),
    }
}

fn follower(flights: &Flights<u8, u32>) -> Follower<u32> {
    match flights.join(1, false) {
        Seat::Follower(follower) => follower,
        Seat::Leader(_) => panic!("nobody leads"),
    }
}

#[tokio::test(start_paused = true)]
async fn followers_get_the_leaders_answer() {
    let flights = Flights::default();
    let leader = leader(&flights);
    let (mut one, mut other) = (follower(&flights), follower(&flights));
    leader.land(|| 7);
    assert_eq!(one.landed().await.as_deref(), Some(&7));
    assert_eq!(other.landed().await.as_deref(), Some(&7));
}

#[tokio::test(start_paused = true)]
async fn other_questions_are_not_followed() {
    let flights = Flights::default();
    let _leader = leader(&flights);
    assert!(matches!(flights.join(2, false), Seat::Leader(_)));
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_ends_without_an_answer_lets_its_followers_go_at_once() {
    let flights = Flights::default();
    let leader = leader(&flights);
    let mut follower = follower(&flights);
    drop(leader);
    assert_eq!(follower.landed().await, None);
}

#[tokio::test(start_paused = true)]
async fn a_follower_knows_its_leader() {
    let flights = Flights::default();
    let leader = leader(&flights);
    tokio::time::advance(std::time::Duration::from_secs(1)).await;
    assert_eq!(follower(&flights).leader(), leader.departure());
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
    assert!(matches!(flights.join(1, false), Seat::Follower(_)));
}
