package watch

import "time"

const (
	// watchers is how many living speakers watch a node: with three, one may die together with it and another be busy.
	watchers = 3
	// suspectAfter is how many questions in a row, one every 100 ms, have to be missed before a node is confirmed.
	suspectAfter = 2
	// A confirmation is confirmTries questions, confirmEvery apart, and takes tries times every if none is answered.
	confirmTries = 3
	confirmEvery = 40 * time.Millisecond
	// toldEvery is confirmEvery when another speaker has confirmed already that the node is silent: that took a while, so
	// what remains to be excluded is that the other one is at fault, not a short disturbance.
	toldEvery = 25 * time.Millisecond
	// lateAfter is how much longer than that a negative result may take. If it took longer this process was stopped for
	// a while, and may have missed the answer: the question is put again, up to maxRepeats times.
	lateAfter  = 80 * time.Millisecond
	maxRepeats = 3
	// settleAfter is how long a target is to have been watched before what is missed counts.
	settleAfter = 200 * time.Millisecond
	// freshFor is how long an answer shows that a node lives, or this node's own link works.
	freshFor = 150 * time.Millisecond

	// returnEvery and returnSlowly are the times between questions to a node that is Down though its speaker lives, for
	// its watchers and for others.
	returnEvery  = 200 * time.Millisecond
	returnSlowly = time.Second
	// unsureEvery is the time between questions to a node that never answered this one.
	unsureEvery = 30 * time.Second
	// orphanEvery is the time between questions to an orphaned node by others than its watchers, should verdicts get
	// lost. Together with proxyEvery it is what an orphaned node costs everybody.
	orphanEvery = time.Second
	proxyEvery  = 2 * time.Second
	// proxyPatience is for how long the kube-proxy of a node whose speaker is gone may be unwell: it may be restarted too.
	proxyPatience = 5 * time.Second
	// unableEvery is the time between attempts to ask when asking itself fails, and after unableLimit of them a failed
	// speaker's node is taken for one that cannot be asked.
	unableEvery = 200 * time.Millisecond
	unableLimit = 5
	// verdictFor is how long a verdict waits for a second one about a node that cannot be asked.
	verdictFor = 2 * time.Second
	// hearsayFor is how long a verdict about a node that never answered this one is believed while its speaker lives and
	// nobody takes the verdict back.
	hearsayFor = 10 * time.Second
	// cutEvery is the time between looks for an answer while this node is cut off.
	cutEvery = 300 * time.Millisecond

	// tickEvery is the resolution of all the above.
	tickEvery = 50 * time.Millisecond

	// maxTargets bounds over how many common links a node is asked.
	maxTargets = 4
	// maxHelpers is how many other nodes are asked as witnesses.
	maxHelpers = 3
)

// repeats are when a verdict is sent again, after the first time: packets get lost.
var repeats = [...]time.Duration{100 * time.Millisecond, 300 * time.Millisecond}

// DefaultStandInLimit is how long others stand in for a speaker before its addresses are taken over, unless configured.
const DefaultStandInLimit = 2 * time.Minute
