//! Rebuilds, and what happens meanwhile: a handler that ends.

use super::*;

/// A handle outlives its handler. Its rebuild took the place of what the next one of the name had saved, and went no
/// further than the old one had come; the next start found that under the newer checkpoint.
#[test]
fn a_projection_that_has_ended_rebuilds_nothing_in_the_place_of_the_next_of_its_name() {
    for is_under_way in [false, true] {
        let (store, gate) = (Store::in_memory().unwrap(), Gate::new());
        let passed = Arc::clone(&gate);
        let apply = move |rows: &mut Rows, event: &Event<'_>| {
            if event.payload() == b"x=1" {
                passed.pass();
            }
            set(rows, event)
        };
        let old = store.projection_over("rows", Query::all(), Rows::new(), apply).save_within(NOW).start().unwrap();
        old.wait_for(append(&store, "a", "x=1")).unwrap();
        let mut next = None;
        let mut succeed = || {
            old.wait_for(append(&store, "a", "y=fail")).unwrap_err();
            let handle = rows(&store).policy(OnError::skip()).start().unwrap();
            handle.wait_for(append(&store, "a", "z=1")).unwrap();
            next = Some(handle);
        };
        let rebuilt = if is_under_way {
            gate.hold(|| old.rebuild(), succeed)
        } else {
            succeed();
            old.rebuild()
        };
        let is_refused = matches!(&rebuilt, Err(Error::HandlerFailed { reason, .. }) if reason == "as asked");
        assert!(is_refused, "under way: {is_under_way}: {rebuilt:?}");
        let next = next.unwrap();
        next.wait_for(append(&store, "a", "w=1")).unwrap();
        next.stop().unwrap();
        let (report, content) = run(&store);
        assert_eq!((report.resumed_behind, report.rebuilt), (store.head().unwrap(), None));
        assert_eq!(content, of(&[("w", "1"), ("x", "1"), ("z", "1")]));
    }
}
