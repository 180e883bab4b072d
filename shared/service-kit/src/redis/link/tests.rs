use std::sync::atomic::AtomicUsize;

use super::*;

/// Connections that are numbers: the attempts that made them. An attempt fails as long as `down` is set.
#[derive(Clone, Default)]
struct Server {
    attempts: Arc<AtomicUsize>,
    down: Arc<AtomicU32>,
}

impl Server {
    async fn connect(&self) -> Result<usize, String> {
        tokio::time::sleep(Duration::from_millis(10)).await;
        let attempt = self.attempts.fetch_add(1, Ordering::Relaxed) + 1;
        if self.down.load(Ordering::Relaxed) > 0 { Err("refused".into()) } else { Ok(attempt) }
    }

    fn set_down(&self, down: bool) {
        self.down.store(u32::from(down), Ordering::Relaxed);
    }

    fn attempts(&self) -> usize {
        self.attempts.load(Ordering::Relaxed)
    }
}

/// A link that is kept for as long as the test runs.
fn kept() -> (Link<usize>, Server, tokio::task::JoinSet<()>) {
    let (link, keeper) = Link::new();
    let server = Server::default();
    let mut tasks = tokio::task::JoinSet::new();
    let kept = server.clone();
    let connect = move || {
        let server = kept.clone();
        async move { server.connect().await }
    };
    tasks.spawn(keeper.run("a store", connect));
    (link, server, tasks)
}

#[tokio::test(start_paused = true)]
async fn a_request_waits_for_the_first_connection() {
    let (link, _server, _tasks) = kept();
    assert_eq!(link.connection().await, Ok((1, 1)));
}

#[tokio::test(start_paused = true)]
async fn a_dead_connection_is_replaced_once_however_many_report_it() {
    let (link, server, _tasks) = kept();
    link.connection().await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    for _ in 0..5 {
        link.broken(1, "reset".into());
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(link.connection().await, Ok((2, 2)));
    link.broken(1, "reset".into());
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(server.attempts(), 2, "a late report of the old connection takes the new one away");
}

#[tokio::test(start_paused = true)]
async fn silence_in_a_row_ends_a_connection_and_an_answer_forgives_it() {
    let (link, server, _tasks) = kept();
    let (_, number) = link.connection().await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    for _ in 0..3 {
        link.silent(number);
        link.silent(number);
        link.answered();
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(server.attempts(), 1);
    for _ in 0..PATIENCE {
        link.silent(number);
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(link.connection().await, Ok((2, 2)));
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_told_at_once_and_its_end_is_found_without_a_request() {
    let (link, server, _tasks) = kept();
    link.connection().await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    server.set_down(true);
    link.broken(1, "reset".into());
    tokio::time::sleep(Duration::from_secs(60)).await;
    let asked = Instant::now();
    assert_eq!(link.connection().await.unwrap_err().as_ref(), "refused");
    assert_eq!(asked.elapsed(), Duration::ZERO);
    let attempts = server.attempts();
    assert!((60..2000).contains(&attempts), "{attempts} attempts in a minute");
    server.set_down(false);
    tokio::time::sleep(LONGEST_WAIT + Duration::from_millis(20)).await;
    assert!(link.connection().await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn connections_that_break_at_once_are_made_ever_more_slowly() {
    let (link, server, _tasks) = kept();
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(60) {
        if let Ok((_, number)) = link.connection().await {
            link.broken(number, "reset".into());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(server.attempts() < 300, "{} attempts in a minute", server.attempts());
}

#[tokio::test(start_paused = true)]
async fn the_keeper_ends_with_the_last_link() {
    let (link, _server, mut tasks) = kept();
    link.connection().await.unwrap();
    drop(link);
    tasks.join_next().await.unwrap().unwrap();
}
