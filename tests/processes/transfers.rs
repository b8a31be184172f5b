//! Money transfers: withdraw here, deposit there, give it back if that fails.

use annals::{OnError, ProcessStatus};

use crate::sagas::{Transfer, TransferCommand, check};
use crate::{failed, status};

#[test]
fn a_transfer_moves_the_money_once() {
    check(|world| {
        let application = world.application();
        application.open_account("alice", 100);
        application.open_account("bob", 0);
        let transfers = application.start_transfers(OnError::stop());
        application.request_transfer("t1", "alice", "bob", 30);
        transfers.settle().unwrap();
        assert_eq!((application.balance("alice"), application.balance("bob")), (70, 30));
        assert_eq!(status(&transfers, "t1"), ProcessStatus::Completed);
        assert!(transfers.instances().open().unwrap().is_empty());
        transfers.stop().unwrap();
    });
}

#[test]
fn a_rejected_first_command_leaves_nothing_to_undo() {
    check(|world| {
        let application = world.application();
        application.open_account("alice", 10);
        application.open_account("bob", 0);
        let transfers = application.start_transfers(OnError::stop());
        application.request_transfer("t1", "alice", "bob", 30);
        transfers.settle().unwrap();
        assert_eq!(status(&transfers, "t1"), failed("overdrawn"));
        assert_eq!(application.types("account-alice"), ["Opened"]);
        assert_eq!(application.types("account-bob"), ["Opened"], "the second command was dropped");
        assert_eq!(transfers.instances().failed().unwrap(), ["t1"]);
    });
}

#[test]
fn a_rejected_second_command_undoes_the_first() {
    check(|world| {
        let application = world.application();
        application.open_account("alice", 100);
        let transfers = application.start_transfers(OnError::stop());
        application.request_transfer("t1", "alice", "nobody", 30);
        transfers.settle().unwrap();
        assert_eq!(status(&transfers, "t1"), failed("closed"));
        assert_eq!(application.types("account-alice"), ["Opened", "Withdrawn", "Deposited"]);
        assert_eq!(application.balance("alice"), 100);
    });
}

#[test]
fn what_cannot_be_undone_is_listed() {
    check(|world| {
        let application = world.application();
        application.open_account("alice", 100);
        // Between the two commands the account is closed, so that nobody takes the money back.
        let (application_of_saga, accounts) = (application.clone(), application.accounts.clone());
        let transfers = application.store.process::<Transfer>(move |command, dispatch| {
            application_of_saga.transfer(command, dispatch)?;
            accounts.execute("alice", |_| crate::sagas::AccountEvent::Closed)?;
            Ok(())
        });
        let transfers = transfers.start().unwrap();
        application.request_transfer("t1", "alice", "nobody", 30);
        transfers.settle().unwrap();
        let instance = transfers.instances().get("t1").unwrap().unwrap();
        assert_eq!(instance.status(), &failed("closed"));
        let give_back = TransferCommand::Deposit { account: "alice".into(), cents: 30 };
        assert_eq!(instance.not_compensated().collect::<Vec<_>>(), [(&give_back, "closed")]);
    });
}

#[test]
fn many_transfers_at_once_keep_the_sum() {
    check(|world| {
        let application = world.application();
        (0..5).for_each(|number| application.open_account(&number.to_string(), 50));
        let transfers = application.start_transfers(OnError::stop());
        std::thread::scope(|scope| {
            for thread in 0..4_u64 {
                let application = &application;
                scope.spawn(move || {
                    for number in 0..10 {
                        let (from, to) = ((number + thread) % 5, (number * 3 + thread + 1) % 6);
                        let id = format!("{thread}/{number}");
                        // The account 5 does not exist.
                        application.request_transfer(&id, &from.to_string(), &to.to_string(), 7 * number);
                    }
                });
            }
        });
        transfers.settle().unwrap();
        let sum: u64 = (0..5).map(|number| application.balance(&number.to_string())).sum();
        assert_eq!(sum, 250);
        assert!(transfers.instances().open().unwrap().is_empty());
        assert!(!transfers.instances().failed().unwrap().is_empty());
    });
}
