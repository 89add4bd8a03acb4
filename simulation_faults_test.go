package quash

import (
	"time"
)

// keepNode keeps a node in a slot, one process after the other, until it is
// calm and there is one.
func (w *world) keepNode(slot int) {
	d := newDice(w.seed, 5, uint64(slot))
	w.pause(d, 0, time.Duration(slot)*time.Second) // they begin at different times
	for number := 0; ; number++ {
		n := w.startNode(slot, number)
		for i := range w.weather.storms {
			w.actors.Go(func() { w.storm(n, newDice(w.seed, 6, uint64(slot), uint64(number), uint64(i))) })
		}
		w.actors.Go(func() { w.harry(n.machine, newDice(w.seed, 7, uint64(slot), uint64(number)), n.name, n.ended) })
		if !w.troubleNode(n, d) {
			return
		}
		w.pause(d, 0, 2*time.Second)
	}
}

// troubleNode lets one thing after the other happen to n, until there has to be
// another in its place. It reports false once it is calm.
func (w *world) troubleNode(n *node, d *dice) bool {
	for w.pause(d, 300*time.Millisecond, 3*time.Second) {
		switch roll := d.float(); {
		case w.weather.crashes && roll < 0.3:
			n.crash(d.chance(0.5))
			return true
		case w.weather.stops && roll < 0.65:
			w.rest.Go(func() { w.handOver(n, d) })
			return true
		case w.weather.cuts && roll < 0.8:
			w.note("%s: network is gone", n.name)
			n.line.set(true, 0)
			n.line.cut(d.chance(0.5))
			w.pause(d, 100*time.Millisecond, 2500*time.Millisecond)
			n.line.release()
			w.note("%s: network is back", n.name)
		}
	}
	return false
}

// handOver stops a node in order. At the worst time, those that its verifiers
// move to have renewed nothing for a while, so that they grant less than it did.
func (w *world) handOver(n *node, d *dice) {
	if !w.weather.upset {
		n.stop("in order")
		return
	}
	var others []*node
	for _, o := range w.staying() {
		if o != n {
			others = append(others, o)
			o.link.set(mode{stall: 1}, update)
		}
	}
	w.pause(d, w.bound/5, 4*w.bound/5)
	if d.chance(0.5) {
		w.favour(n)
		n.line.cut(false)
		w.pause(d, 30*time.Millisecond, 100*time.Millisecond)
		w.favour(nil)
	}
	w.rest.Go(func() {
		w.pause(d, 500*time.Millisecond, 2*time.Second)
		for _, o := range others {
			o.link.release()
		}
	})
	n.stop("in order, and others are slow")
}

// storm lets calls of the database go wrong in n, some kinds at a time.
func (w *world) storm(n *node, d *dice) {
	for w.pause(d, 0, 2*time.Second) {
		var kinds []call
		for c := range calls {
			if d.chance(0.5) {
				kinds = append(kinds, c)
			}
		}
		m := mode{slow: d.between(time.Millisecond, 1500*time.Millisecond)}
		switch d.n(5) {
		case 0:
			m.fail = d.float()
		case 1:
			m.stall = d.float()
		case 2:
			m.slow, m.fail = 0, 1
		case 3:
			m.slow, m.doubt = 0, 1
		}
		w.note("%s: database: calls %v are %+v", n.name, kinds, m)
		n.link.set(m, kinds...)
		w.pause(d, 50*time.Millisecond, 3*time.Second)
		w.note("%s: database: calls %v are well", n.name, kinds)
		if m.stall > 0 || w.calmed() {
			n.link.release()
		} else {
			n.link.set(mode{}, kinds...)
		}
	}
}

// harry pauses a machine, puts it to sleep and sets its wall clock, one of these
// at a time, until it is calm or ended. Where clocks were set and a machine
// slept within one lease, the two could hide each other.
func (w *world) harry(m *machine, d *dice, name string, ended <-chan struct{}) {
	for w.pause(d, 0, 4*time.Second) && w.pause(d, w.bound, w.bound) {
		select {
		case <-ended:
			return
		default:
		}
		switch roll := d.n(4); {
		case w.weather.pauses && roll == 0:
			long := d.between(5*time.Millisecond, 3*time.Second)
			w.note("%s is paused for %v", name, long)
			m.pause(long, false)
			w.note("%s goes on", name)
		case w.weather.sleeps && roll < 3:
			long := d.between(100*time.Millisecond, 3*time.Second)
			if d.chance(0.3) {
				long = d.between(0, 20*time.Millisecond) // too short to be noticed
			}
			w.note("%s sleeps for %v", name, long)
			m.pause(long, true)
			w.note("%s wakes", name)
		case w.weather.steps && roll == 3:
			by := d.between(100*time.Millisecond, 8*time.Second)
			if d.chance(0.5) {
				by = -by
			}
			w.note("%s: wall clock is set by %v", name, by)
			m.step(by)
		}
	}
	m.set()
}

// keepVerifier keeps a verifier in a slot, one process after the other.
func (w *world) keepVerifier(slot int) {
	d := newDice(w.seed, 8, uint64(slot))
	w.pause(d, 0, time.Second)
	for number := 0; ; number++ {
		v := w.startVerifier(slot, number)
		w.actors.Go(func() { w.harry(v.machine, newDice(w.seed, 9, uint64(slot), uint64(number)), v.name, v.dead) })
		if w.weather.returns && slot == 0 {
			for w.pause(d, 0, time.Second) {
				w.loseLease(v, d)
				v.line.release()
				w.pause(d, 3*w.bound/2, 3*w.bound/2)
			}
		}
		if !w.troubleVerifier(v, d) {
			v.line.release()
			return
		}
	}
}

// troubleVerifier lets one thing after the other happen to v, until another
// takes its place. It reports false once it is calm.
func (w *world) troubleVerifier(v *verifier, d *dice) bool {
	for w.pause(d, 100*time.Millisecond, 2500*time.Millisecond) {
		switch roll := d.float(); {
		case w.weather.moves && roll < 0.15:
			w.rest.Go(func() { v.close(d.between(100*time.Millisecond, 3*time.Second)) })
			w.pause(d, 0, time.Second)
			return true
		case w.weather.moves && roll < 0.3:
			v.abandon(d.chance(0.5))
			w.pause(d, 0, time.Second)
			return true
		case w.weather.faults:
			w.trouble(v, d)
		}
	}
	return false
}

// trouble lets the network fail v for a while.
func (w *world) trouble(v *verifier, d *dice) {
	for range 1 + d.n(2) {
		w.worsen(v, d)
		w.pause(d, 20*time.Millisecond, 2500*time.Millisecond)
	}
	v.line.release()
	w.note("%s is well", v.name)
}

func (w *world) worsen(v *verifier, d *dice) {
	kind := []string{"is slow", "hears nothing", "is not heard", "is held up", "is cut off", "is cut off silently", "is cut for a moment", "hears late", "loses its lease"}[d.n(9)]
	w.note("%s %s", v.name, kind)
	switch kind {
	case "is slow":
		v.line.set(false, d.between(10*time.Millisecond, time.Second))
	case "hears nothing":
		v.line.stall(down)
	case "is not heard":
		v.line.stall(up)
	case "is held up":
		v.line.stall(up)
		v.line.stall(down)
	case "is cut off", "is cut off silently":
		v.line.set(true, 0)
		v.line.cut(kind != "is cut off")
	case "is cut for a moment":
		v.line.cut(d.chance(0.5))
	case "hears late":
		v.line.stall(down)
		w.actors.Go(func() { w.revoke(d) })
		w.pause(d, w.bound/5, w.bound/2)
		v.line.let(down, 1)
		w.pause(d, w.bound/2, w.bound)
	case "loses its lease":
		w.loseLease(v, d)
	}
}

// loseLease cuts v off for longer than its lease, and has nothing revoked until
// it returns.
func (w *world) loseLease(v *verifier, d *dice) {
	w.note("%s loses its lease", v.name)
	w.hush(4 * w.bound)
	w.pause(d, w.bound/5, w.bound/5)
	v.line.set(true, 0)
	v.line.cut(false)
	w.pause(d, w.bound, 3*w.bound/2)
}
