mod cold_start;

use tokio::sync::mpsc::{self, Receiver, Sender};

use super::*;

/// A stream whose first item is there.
#[derive(Debug)]
struct Begun {
    first: u32,
    rest: Receiver<u32>,
}

/// Opens the stream that `script` plays, and waits for its first item.
async fn open<F: Future<Output = ()> + Send + 'static>(
    script: impl FnOnce(Sender<u32>) -> F,
) -> Result<Begun, Failed> {
    let (sender, mut rest) = mpsc::channel(1);
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(script(sender));
    tasks.detach_all();
    let first = rest.recv().await.ok_or(Failed(Script::Fail))?;
    Ok(Begun { first, rest })
}

async fn by_name(backend: Arc<Scripted>, _: Deadline) -> Result<Begun, Failed> {
    match backend.name {
        "silent" => open(|sender| async move { sender.closed().await }).await,
        "closing" => open(|_| async {}).await,
        _ => {
            open(|sender| async move {
                for (item, pause) in [(1, 500), (2, 10_000), (3, 60_000)] {
                    tokio::time::sleep(ms(pause)).await;
                    if sender.send(item).await.is_err() {
                        return;
                    }
                }
            })
            .await
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_commits_the_chain_at_its_first_item_and_no_timeout_cuts_it_after_that() {
    let good = backend("good", Script::Answer);
    let chain = FallbackChain::new(vec![
        tier("one", vec![backend("closing", Script::Answer), backend("silent", Script::Answer)]),
        tier("two", vec![Arc::clone(&good)]),
        tier("never", vec![backend("other", Script::Answer)]),
    ]);
    let walk = Walk { streaming: true, ..walk(ms(20_000)) };
    let mut served = chain.open(walk, by_name).await.unwrap();
    assert_eq!(
        outcomes(&served.attempts),
        [
            ("closing", AttemptOutcome::Failure),
            ("silent", AttemptOutcome::Timeout),
            ("good", AttemptOutcome::Success)
        ]
    );
    assert_eq!(served.attempts[1].detail, "no first content within 3.0s");
    assert_eq!(served.attempts[2].took, ms(500), "a stream's time is that to its first item");
    assert_eq!(served.answer.first, 1);

    // The rest takes longer than the first item may, and than the deadline: both are over.
    let totals = || good.breaker().unwrap().snapshot().totals.success;
    assert_eq!((served.answer.rest.recv().await, served.answer.rest.recv().await), (Some(2), Some(3)));
    assert_eq!((served.answer.rest.recv().await, totals()), (None, 0));
    served.guard.take().unwrap().success();
    assert_eq!(totals(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_breaks_off_after_its_first_item_is_a_failure_of_its_backend() {
    let breaking = backend("good", Script::Answer);
    let chain = FallbackChain::new(vec![tier("one", vec![Arc::clone(&breaking)])]);
    let mut served = chain.open(Walk { streaming: true, ..walk(ms(20_000)) }, by_name).await.unwrap();
    served.guard.take().unwrap().settle(Verdict::FAILURE.with_retry_after(Some(ms(45_000))));
    assert_eq!(breaking.breaker().unwrap().state(), State::Open);
    let refused = breaking.breaker().unwrap().acquire().unwrap_err();
    assert_eq!(refused.retry_after, Some(ms(45_000)), "what the backend asks for lengthens the wait");
}
