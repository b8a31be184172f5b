//! Histories that end in a loss of power or a kill, again and again.
//!
//! The lengths of payloads depend on their place alone, so that what one life of the log wrote lies exactly over what an
//! earlier one did; their bytes depend on the life, so that stale ones tell.

use super::*;
use crate::seeds::Suite;

/// As many histories as `ANNALS_LOG_HISTORIES` says, and otherwise so many.
const SUITE: Suite = Suite { prefix: "ANNALS_LOG", filter: "log::tests::power", histories: 300 };
const LIVES: u64 = 4;
const LENGTHS: [usize; 5] = [30, 700, 30, 30, 2100];

/// One log through several lives, and what is known of it.
struct History {
    seed: u64,
    dice: SeededRandomness,
    disk: FaultyDisk,
    /// Every commit that was staged, in order, cut to what was recovered.
    staged: Vec<Vec<Vec<u8>>>,
    /// So many of them were acknowledged as synced.
    acknowledged: usize,
}

impl History {
    fn new(seed: u64) -> Self {
        let disk = FaultyDisk::new(MemoryDisk::new());
        Self { seed, dice: SeededRandomness::new(seed), disk, staged: Vec::new(), acknowledged: 0 }
    }

    fn below(&self, end: u64) -> u64 {
        let mut bytes = [0; 8];
        self.dice.fill(&mut bytes);
        u64::from_le_bytes(bytes) % end
    }

    fn live(&mut self, life: u64) {
        let opened = self.open();
        for _ in 0..self.below(25) {
            match self.below(12) {
                0 => opened.appender.sync().map(|()| self.acknowledge()),
                1 => opened.appender.mark().map(|()| self.acknowledge()),
                2 => opened.appender.make_spare(),
                number => self.append(&opened, life, if number < 5 { SYNCED } else { OS }),
            }
            .unwrap_or_else(|error| panic!("seed {}, life {life}: {error}", self.seed));
        }
        if self.below(4) == 0 {
            opened.appender.close().unwrap();
            self.acknowledge();
        }
    }

    fn append(&mut self, opened: &Opened, life: u64, durability: Durability) -> Result<()> {
        let place = self.staged.len();
        let commit: Vec<Vec<u8>> = (0..=self.below(2))
            .map(|event| filled(&format!("{}/{life}/{place}/{event}", self.seed), LENGTHS[place % LENGTHS.len()]))
            .collect();
        append(&opened.appender, durability, &commit)?;
        self.staged.push(commit);
        if durability == SYNCED {
            self.acknowledge();
        }
        Ok(())
    }

    fn acknowledge(&mut self) {
        self.acknowledged = self.staged.len();
    }

    /// Opens the log and checks what is in it, read-only first.
    fn open(&mut self) -> Opened {
        let seed = self.seed;
        let followed = follow(&self.disk, small()).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        if let Some((follower, _)) = followed {
            self.check(&read_all(follower.log()), 0);
        }
        let opened = try_open(&self.disk, small()).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        let recovered = read_all(&opened.log);
        self.check(&recovered, self.acknowledged);
        self.staged.truncate(recovered.len());
        self.acknowledge();
        opened
    }

    fn check(&self, recovered: &[Vec<Vec<u8>>], least: usize) {
        let seed = self.seed;
        assert!(recovered.len() >= least, "seed {seed}: {} of {least} commits are left", recovered.len());
        assert!(self.staged.starts_with(recovered), "seed {seed}: what is recovered is not a prefix");
    }

    fn lose_power(&mut self, life: u64) {
        self.disk = FaultyDisk::new(self.disk.power_cut(self.seed * LIVES + life));
    }
}

#[test]
fn what_was_acknowledged_survives_losses_of_power_and_kills() {
    let (histories, acknowledged) = SUITE.run(|seed| {
        let mut history = History::new(seed);
        for life in 0..LIVES {
            history.live(life);
            if history.below(4) > 0 {
                history.lose_power(life);
            }
        }
        drop(history.open());
        history.acknowledged
    });
    println!("{histories} histories of a log: {acknowledged} commits in the end");
    assert!(acknowledged as u64 >= histories, "too little happened: {acknowledged} commits");
}

#[test]
fn power_may_be_lost_at_every_call_of_a_short_history() {
    let mut seed = 0;
    for after in 0.. {
        let disk = FaultyDisk::new(MemoryDisk::new());
        disk.inject(Fault::all_after(after));
        let mut acknowledged = 0;
        let mut staged = 0;
        let finished = (|| -> Result<()> {
            let opened = try_open(&disk, small())?;
            for index in 0..12 {
                let durability = if index % 3 == 0 { SYNCED } else { OS };
                staged += 1;
                append(&opened.appender, durability, &[filled(&format!("{index}"), 600)])?;
                if durability == SYNCED {
                    acknowledged = staged;
                }
                opened.appender.make_spare()?;
            }
            opened.appender.close()?;
            acknowledged = staged;
            Ok(())
        })();
        for _ in 0..4 {
            let opened = try_open(&disk.power_cut(seed), small());
            let opened = opened.unwrap_or_else(|error| panic!("after {after} calls, seed {seed}: {error}"));
            let texts = texts(&opened.log);
            assert!((acknowledged..=staged).contains(&texts.len()), "after {after} calls, seed {seed}: {texts:?}");
            assert!(texts.iter().enumerate().all(|(index, text)| *text == index.to_string()), "seed {seed}: {texts:?}");
            seed += 1;
        }
        if finished.is_ok() {
            break;
        }
    }
}
