package issuer

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"math"
	"time"

	"github.com/quashdev/quash/internal/feed"
	"github.com/quashdev/quash/internal/revset"
)

// Errors of stores. Everything else that a store returns is a failure of the
// database, of which nothing is known but its text.
var (
	// ErrNotFound says that there is no such row.
	ErrNotFound = errors.New("not found")
	// ErrExists says that a row with the same name is there already.
	ErrExists = errors.New("exists already")
	// ErrUnknown says that a commit failed and that the database could not
	// be asked what became of it. The change may stand or not; it must not be
	// made again without looking.
	ErrUnknown = errors.New("outcome of the commit unknown")
	// ErrForked says that the database lost what this process had read from
	// it: it was restored, or failed over to a copy that lagged. It stands
	// until a new epoch has begun.
	ErrForked = errors.New("the database's log is not the continuation of the one read before")
)

// Store keeps accounts, sessions, keys, the log and the audit in one
// transactional database. It holds no rule. All methods may be called
// concurrently.
//
// Each method runs fn in a transaction of its own and returns fn's error
// unchanged, after rolling back. A function may run more than once: it must
// have no effect but on its argument, and must set afresh whatever it reports
// outside. It must not keep the argument or call the store.
//
// An Issue or Update that returns nil is durable. One that returns another
// error than ErrUnknown has changed nothing. When ctx ends before the
// transaction has begun, it does not begin; once begun it runs to its end.
//
// A store that other processes write to, too, remembers the latest mark that
// it has seen. Before Issue, Update and Tail answer they compare it with what
// the database has there, in the same transaction, and return ErrForked where
// the two differ; an Update that calls BeginEpoch may. Where the database has
// begun an epoch since, there is nothing to compare.
type Store interface {
	// View runs fn on one consistent snapshot.
	View(ctx context.Context, fn func(Reader) error) error

	// Issue runs fn in a transaction that a token is issued from. The
	// accounts, the sessions and the head that fn reads MUST be of one
	// snapshot, and an Update that changes one of the accounts read MUST
	// either come wholly before or wait for the end. So no revocation that fn
	// did not see has a position at or below the head that it read, and none
	// that it saw has one above. In fn, AppendRevocation is an error.
	Issue(ctx context.Context, fn func(Tx) error) error

	// Update runs fn in a transaction that may revoke. The records appended
	// become visible with their transaction, in the order of their positions,
	// which MUST be dense, to every View and Issue alike.
	Update(ctx context.Context, fn func(Tx) error) (Commit, error)

	// Tail returns the log as it stands, and at most limit records after a
	// mark, all of one snapshot that has every commit that ended before the
	// call began. It is what nodes call after each commit, so it is made to
	// cost as little as the store can make it.
	Tail(ctx context.Context, after feed.Mark, limit int) (Tail, error)

	// Changed receives after commits that changed the log, the claim names or
	// the signing keys, and after those of other processes that changed nodes'
	// rows or the outbox. It is a hint for one reader: several commits may make
	// one value, and a value may come for none.
	Changed() <-chan struct{}

	// Prune takes records that are to be forgotten before now out of the live
	// log into the archive, and sessions that idled too long or reached their
	// end, at most limit of each, and reports how many of both it took. It
	// forgets all assertions of clients that have expired, too, in transactions
	// of at most limit.
	Prune(ctx context.Context, now time.Time, idle time.Duration, limit int) (records, sessions int, err error)

	Close() error
}

// Commit says what an Update appended.
type Commit struct {
	First, Last uint64    // positions of the records appended, 0 where there were none
	Head        feed.Mark // the log's end right after
}

// Reader reads rows. Slices and raw JSON that it returns are the caller's.
type Reader interface {
	// Now is the database's clock at the start of the transaction. That is the
	// first read's: asked for after one, it costs no round trip.
	Now() time.Time

	Account(subject string) (Account, error)   // ErrNotFound
	AccountNamed(name string) (Account, error) // ErrNotFound; nobody has the empty name
	// Accounts returns accounts in the order of their subjects.
	Accounts(after string, limit int) ([]Account, error)

	Session(id string) (Session, error) // ErrNotFound
	// Sessions returns the sessions that match, in the order of their ids.
	Sessions(m Match, after string, limit int) ([]Session, error)
	// CountSessions returns how many sessions match, and how many of the
	// tokens issued for them expire after now.
	CountSessions(m Match, now time.Time) (sessions, tokens int, err error)
	// Oldest returns the matching session that was unused for longest; ErrNotFound.
	Oldest(m Match) (Session, error)
	// AccountClaims returns the names of the claims in any account's document
	// that a Match can select by, in order.
	AccountClaims() ([]string, error)

	// Log returns what the log is, and where it ends.
	Log() (Log, error)
	// Records returns live records after a position, in order and without a
	// gap, with the mark of the last of them (of after itself if there are
	// none). After may not lie below Log.Pruned or above Log.Head.
	Records(after uint64, limit int) ([]revset.Record, feed.Mark, error)
	// MarkAt returns the mark of a position between Log.Pruned and Log.Head.
	MarkAt(position uint64) (feed.Mark, error)
	// Live calls yield with every record that has not been pruned, in order.
	Live(yield func(revset.Record) error) error
	// History returns revocations after a position, pruned ones too, in order.
	History(after uint64, limit int) ([]Revocation, error)

	SigningKeys() ([]SigningKey, error)       // in the order of Created, to the millisecond
	APIKey(id string) (APIKey, error)         // ErrNotFound
	APIKeys() ([]APIKey, error)               // in the order of Created
	Client(id string) (Client, error)         // ErrNotFound
	Clients() ([]Client, error)               // in the order of their ids
	Audit(q AuditQuery) ([]AuditEntry, error) // newest first

	// Requested says whether the outbox holds requests.
	Requested() (bool, error)
	// Answered returns the position of the last revocation that was made for
	// a request: 0 while it waits, or where none was needed; ErrNotFound.
	Answered(request uint64) (uint64, error)
	// Epochs returns how each epoch began but for the first, in order.
	Epochs() ([]Epoch, error)

	Nodes() ([]Node, error) // in the order of their ids
	// Confirmations returns the evidence that covers a position, at most one
	// of each node, in the order of their ids.
	Confirmations(position uint64) ([]Confirmation, error)
	// Verifiers returns those of a node that have one of the numbers, in the
	// order of their numbers.
	Verifiers(node string, numbers []uint32) ([]Verifier, error)
}

// Tx reads and writes rows. Its reads see its writes.
type Tx interface {
	Reader

	PutAccount(Account) error           // inserts or replaces by Subject; ErrExists where another has the Name
	DeleteAccount(subject string) error // with its sessions; ErrNotFound
	PutSession(Session) error           // inserts or replaces by ID; ErrNotFound where there is no such Subject
	// EndSessions deletes the sessions that match, but for the one whose id
	// is except, and returns how many they were and how many of their tokens
	// expire after now.
	EndSessions(m Match, except string, now time.Time) (sessions, tokens int, err error)
	// ForgetTokens empties Session.Tokens of the sessions that match, because
	// a revocation has just ended them all.
	ForgetTokens(m Match) error

	// AppendRevocation appends to the log. The store numbers the record,
	// seals it with Revocation.Seal, and notes its claim name as in use, all
	// in the order of the calls.
	AppendRevocation(Revocation) error
	// SetMaxLifetime notes the longest lifetime of access tokens ever in
	// force, under the same lock as the head. It never shortens it.
	SetMaxLifetime(time.Duration) error
	// PutIssuer inserts or replaces by Name, as [Log.With] has it, under the
	// same lock as the head. In an Issue it is an error.
	PutIssuer(Foreign) error

	// TakeRequests takes at most limit requests out of the outbox, in the
	// order of their ids. It waits for transactions that take the same ones.
	TakeRequests(limit int) ([]Request, error)
	// AnswerRequest notes of a request that was taken the position of the last
	// revocation that the transaction appended since it took requests or
	// answered another, 0 where there was none.
	AnswerRequest(request uint64) error

	// BeginEpoch gives the log another id and lifts its head, as [Log.Lift]
	// has it, and Log.Pruned to the same mark: no reading begins in
	// the gap or below it. What is live stays so. It is an error where no
	// position would be left.
	BeginEpoch(id string, reason string) (Epoch, error)
	// Restore makes the log what another was: l itself, its epochs, and its
	// records as they were sealed, all of them and in order. Those that are to
	// be forgotten before Now go to the archive, and Log.Pruned is at or above
	// the last of them and l.Pruned. It checks no seal. It is an error where
	// the log has records or epochs already.
	Restore(l Log, epochs []Epoch, records iter.Seq2[Revocation, error]) error

	PutSigningKey(SigningKey) error // inserts or replaces by ID
	PutAPIKey(APIKey) error         // inserts or replaces by ID; ErrExists where another has the Name
	DeleteAPIKey(id string) error   // ErrNotFound
	PutClient(Client) error         // inserts or replaces by ID
	DeleteClient(id string) error   // ErrNotFound
	// SpendAssertion notes that a client's assertion was used; ErrExists where
	// it was already. Prune forgets it a minute after until.
	SpendAssertion(id [sha256.Size]byte, until time.Time) error
	// AppendAudit appends to the audit. The store sets the entry's ID, and,
	// where it has none as one that is restored does, its Position to that of
	// the last revocation that the transaction appended before it, 0 where
	// there was none.
	AppendAudit(AuditEntry) error

	// PutNode inserts or replaces by ID. A transaction that calls it and Log
	// MUST be ordered with those that append: the head that it reads is the
	// head until it has ended. Leases rest on that. Of two transactions that
	// write or delete the same node's row one comes wholly after the other,
	// its reads included.
	PutNode(Node) error
	DeleteNode(id string) error // ErrNotFound
	// PutVerifier and PutConfirmation insert evidence. Of a node's, no two
	// verifiers have one number, and no two confirmations one position; what
	// is there already stays.
	PutVerifier(Verifier) error
	PutConfirmation(Confirmation) error
}

// Tail is what a node has to know after a commit. Its slices are shared: they
// must not be changed.
type Tail struct {
	Log         Log
	SigningKeys []SigningKey // all, in the order of Reader.SigningKeys
	Nodes       []Node       // all, in the order of Reader.Nodes
	Requested   bool         // whether the outbox holds requests
	// At is what the log has at the position of the mark asked for: the same
	// mark, where the log is its continuation. Where the position is below
	// Log.Pruned or above Log.Head, At is zero and there are no records.
	At      feed.Mark
	Records []revset.Record // after At, dense
	Mark    feed.Mark       // of the last record; At where there are none
}

// Node is the row of one running server process, by which the others know what
// leases it may have granted. One that crashed leaves it behind, and so does one
// that ended in order while somebody held its leases.
type Node struct {
	ID      string        // random, of the process
	Issuer  string        // iss of the tokens that it issues
	Counter uint64        // rises with each renewal
	Floor   uint64        // it and every holder of one of its leases has applied the log up to here
	Lease   time.Duration // that it grants
	Started time.Time
	Owed    string // who held its leases when it ended in order, as it wrote it down; empty before
}

// Verifier is what a node came to know of a verifier's process, for the
// evidence.
type Verifier struct {
	Node    string // ID of the node
	Number  uint32 // given by the node, to name the verifier in its Confirmations
	Process string // random id of the verifier
	Name    string // what people call it
	Key     string // id of the API key that it presented
	Address string // where it connected from
	Since   time.Time
}

// Confirmation is the evidence of one node for the records from First to Last,
// which it sent together: when each of the verifiers that held its leases
// confirmed the last of them, or how else it stopped accepting what they kill.
type Confirmation struct {
	Node        string
	First, Last uint64
	Began       time.Time     // when the node had read the records, by its clock
	Took        time.Duration // from then until nobody was left to wait for
	Confirmed   int           // verifiers that confirmed
	Lost        int           // verifiers whose lease ended instead
	Left        int           // verifiers that said goodbye instead
	// Outcomes has one for each verifier, the slowest first, but at most
	// MaxOutcomes of them.
	Outcomes []Outcome
}

// MaxOutcomes bounds the evidence by verifier that is kept of one confirmation.
const MaxOutcomes = 2000

// Outcome says how it ended with one verifier.
type Outcome struct {
	Verifier uint32 // its Number
	End      End
	After    time.Duration // since Began, to the microsecond
}

// End is how a verifier stopped accepting what a revocation kills.
type End uint8

// The ends.
const (
	Confirmed End = iota + 1 // it said that it had applied the records
	Lost                     // its lease ended, with its margin
	Left                     // it said goodbye: it accepts nothing any more
)

// Match selects sessions by a claim that their tokens carry: "sub", "sid",
// "client_id", or one of the account's document, whose string, number or
// boolean, or a member of whose array, is Value in the text by which
// [Account.ClaimValues] names it. The zero Match selects every session.
type Match struct{ Claim, Value string }

// Account is a subject: somebody, or something, that sessions are opened for.
type Account struct {
	Subject     string          // sub of its tokens
	Name        string          // what it logs in with; empty where an application keeps the password
	Password    string          // hash in PHC form; empty where it cannot log in with one
	Claims      json.RawMessage // a JSON object that goes into its tokens
	Deactivated bool
	Created     time.Time
	Changed     time.Time
}

// Session is one login on one device. A session that ended has no row.
type Session struct {
	ID      string // sid of its tokens
	Subject string
	Client  string // client_id of its tokens
	// Registered says that Client was that of a registered client when the
	// session was opened; else it is a label, which says nothing of who uses it.
	Registered bool
	Scope      string // granted to the client, its members separated by spaces
	Device     string // as the client named it
	Address    string // where it was last used from
	Created    time.Time
	LastUsed   time.Time // login or latest refresh
	Expires    time.Time // absolute time-out

	Counter  uint64            // of the refresh token that rotates next
	Secret   [32]byte          // half of the key that refresh tokens are made with
	Rotated  time.Time         // when Counter last rose
	RetryKey [sha256.Size]byte // of the Idempotency-Key of the request that raised it; zero where it had none
	Tokens   []uint32          // exp of its access tokens that live, the newest 32 at most
}

// Log is what the log says of itself.
type Log struct {
	ID          string
	Epoch       uint64
	HashSecret  []byte // see revset.KeyOf
	Head        feed.Mark
	Pruned      feed.Mark     // up to here records may have been taken out of the live log
	MaxLifetime time.Duration // the longest of access tokens ever in force
	Claims      []string      // names that any record names, in order
	Issuers     []Foreign     // others whose tokens it revokes, in the order of their names
}

// Request asks for a revocation. An application that shares the database made
// it, in its own transaction.
type Request struct {
	ID     uint64 // given by the store, never twice
	Claim  string
	Value  string
	Reason string
	Actor  string // the database role that made it
	Time   time.Time
}

// Epoch says how the log went on where it could not simply be continued: after
// a fail-over that lost its end, and after a restore.
type Epoch struct {
	Number uint64 // the first epoch is 1, and has no entry
	Log    string // the log's id from here on
	Time   time.Time
	Reason string
	Before feed.Mark // the head that was found
	Begin  feed.Mark // the head that it was lifted to
}

// EpochLift is how far the head is lifted at least: by far more records than a
// fail-over can lose.
const EpochLift = 1 << 28

// epochRate is far more records a second than a log can be given.
const epochRate = 1 << 20

// Revocation is one record of the log with its evidence.
type Revocation struct {
	Issuer    string
	Claim     string
	Value     string
	Before    uint64 // 0: its own position; or revset.Forever
	NotBefore uint32 // Unix seconds, of tokens that others issued
	Keep      bool   // never forgotten: a signing key

	Time   time.Time // when it was made, by the database's clock
	Event  string    // name of the Event
	Actor  string    // who made it
	Reason string    // why

	// What Seal adds.
	Position uint64
	Key      revset.Key
	Forget   uint32
	Digest   feed.Digest
}

// Lift returns the epoch that begins where l ends. Stores call it while they
// hold the lock of the head, and begin none at or above revset.MaxPosition.
//
// The head is lifted above every position that was handed out before, of which
// l need not know all. It may lack its end, hence EpochLift. And it may be an
// old copy, of which other epochs have begun since: hence the clock, by
// which no log gets ahead but where epochs follow each other within minutes.
// Until the year 2242 that leaves room for millions of them.
func (l Log) Lift(id, reason string, now time.Time) Epoch {
	e := Epoch{Number: l.Epoch + 1, Log: id, Time: now.Truncate(time.Millisecond), Reason: reason, Before: l.Head}
	e.Begin.Position = max(l.Head.Position+EpochLift, uint64(now.UnixMilli())*epochRate/1000)
	e.Begin.Digest = e.seal()
	return e
}

// seal chains the epoch to the log before it.
func (e *Epoch) seal() feed.Digest {
	return sha256.Sum256(fmt.Appendf(nil, "%d %s epoch %d %d %d:%s%d:%s%d", e.Before.Position, e.Before.Digest,
		e.Number, e.Begin.Position, len(e.Log), e.Log, len(e.Reason), e.Reason, e.Time.UnixMilli()))
}

// forgetMargin covers the leeway of verifiers and the skew of both clocks.
const forgetMargin = time.Minute

// Seal numbers r as the next record of the log and chains it to what came
// before. Stores call it, in order, while they hold the lock of the head.
func (r *Revocation) Seal(l Log) feed.Mark {
	r.Position = l.Head.Position + 1
	if r.Before == 0 {
		r.Before = r.Position
	}
	r.Key = revset.KeyOf(l.HashSecret, r.Issuer, r.Claim, r.Value)
	r.Forget = revset.NeverForget
	if !r.Keep {
		r.Forget = uint32(min(r.Time.Add(l.lifetime(r.Issuer)+forgetMargin).Unix(), math.MaxUint32-1))
	}
	r.Digest = r.digest(l.Head.Digest)
	return feed.Mark{Position: r.Position, Digest: r.Digest}
}

// Record returns r as verifiers see it.
func (r *Revocation) Record() revset.Record {
	return revset.Record{Position: r.Position, Key: r.Key, Before: r.Before, NotBefore: r.NotBefore, Forget: r.Forget}
}

// SigningKey is a key pair that access tokens are signed with.
type SigningKey struct {
	ID        string // kid: its RFC 7638 thumbprint
	Algorithm string
	Public    json.RawMessage // JSON Web Key
	Sealed    []byte          // the private key, encrypted; nothing where it signs no more
	Created   time.Time
	Retired   time.Time // it signs no more; zero while it does
	Withdrawn bool      // compromised: no longer published
}

// APIKey lets a program use the private listener. Its secrets are not kept.
type APIKey struct {
	ID            string
	Name          string
	Scopes        []Scope
	Hash          [sha256.Size]byte // of the secret
	Previous      [sha256.Size]byte // of the secret before it; zero where there is none
	PreviousUntil time.Time         // when that one ends
	Created       time.Time
	LastUsed      time.Time // to the minute
}

// Scope is what an API key may be used for.
type Scope string

// The scopes. ScopeFeed stands alone: a verifier's key has no other.
const (
	ScopeFeed     Scope = "feed"
	ScopeRevoke   Scope = "revoke"
	ScopeSessions Scope = "sessions"
	ScopeAccounts Scope = "accounts"
	ScopeAudit    Scope = "audit"
	ScopeKeys     Scope = "keys"
	ScopeBackup   Scope = "backup" // to read all that there is
	ScopeClients  Scope = "clients"
)

// AdminScopes are all that an administrator may have.
var AdminScopes = []Scope{ScopeRevoke, ScopeSessions, ScopeAccounts, ScopeAudit, ScopeKeys, ScopeBackup, ScopeClients}

// Client is a program that is registered to have tokens: those of sessions that
// are opened for it, and its own. Its secrets are not kept.
type Client struct {
	ID            string // client_id of its tokens
	Name          string
	Method        AuthMethod        // by which it shows who it is
	Hash          [sha256.Size]byte // of the secret; zero where its method has none
	Previous      [sha256.Size]byte // of the secret before it; zero where there is none
	PreviousUntil time.Time         // when that one ends
	Keys          json.RawMessage   // JSON Web Key Set of a client that signs assertions; else nil
	Grants        []string          // grant types that it may use
	Scopes        []string          // members that the scope of its tokens may have
	Audience      []string          // aud of its tokens; none: the server's
	Created       time.Time
	LastUsed      time.Time // to the minute
}

// AuthMethod is how a client shows who it is, by its name in RFC 7591, section
// 2, and OpenID Connect Core 1.0, section 9.
type AuthMethod string

// The methods.
const (
	SecretBasic   AuthMethod = "client_secret_basic" // a secret in the Authorization header
	SecretPost    AuthMethod = "client_secret_post"  // a secret in the body
	PrivateKeyJWT AuthMethod = "private_key_jwt"     // an assertion that it signs (RFC 7523)
	NoMethod      AuthMethod = "none"                // it cannot: whoever knows its client_id can use it
)

// AuditEntry says what happened, once.
type AuditEntry struct {
	ID       uint64 // given by the store, rising
	Time     time.Time
	Event    string
	Actor    string // who did it, as Actor.Name has it
	Address  string // from where
	Subject  string
	Session  string
	Position uint64 // of the last revocation that it made, 0 where none
	Reason   string
	Detail   json.RawMessage // an object, or nothing
}

// AuditQuery selects audit entries; zero fields do not restrict.
type AuditQuery struct {
	Before  uint64 // ids below
	Subject string
	Event   string
	// Position selects what was noted of the revocation there: the entries
	// with the lowest Position at or above it.
	Position uint64
	Limit    int
}
