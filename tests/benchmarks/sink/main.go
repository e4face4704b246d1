// Counts what OTLP exporters send, and nothing else: a sink that costs a benchmark as little as can be.
//
// One port of the loopback takes OTLP/HTTP (protobuf) and OTLP/gRPC, which is a POST over HTTP/2 without TLS
// whose body stands behind five bytes; so the standard library is all that is needed. Every request is
// acknowledged when its body has been read. Records are counted by stepping over protobuf's length-prefixed
// fields; nothing is decoded. A compressed body is kept as it is and unpacked when the counts are asked for:
// unpacking would take the CPU from those who are measured. A request that cannot be counted makes the
// process say so and exit with 1: a benchmark that lost count has no result.
//
// GET /counts?quiet=SECONDS&logs=NUMBER answers soon after so many log records came, or when something came and
// then nothing for so long, or when nothing came at all: for senders that do not end by themselves, so that
// nobody asks again and again while they work. Without `logs`, and for compressed bodies, only the time counts.
package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Who waits for quiet waits no longer than this for the first request: its sender may have died.
const longestStart = 30 * time.Second

// How often the counts are looked at while somebody waits for them, and how long a sender of all records that were
// wanted has to send one too many.
const (
	lookEvery = 50 * time.Millisecond
	settle    = 300 * time.Millisecond
)

// A compressed body is kept for later as long as all of them take no more than this.
const mostKeptBytes = 1 << 30

type signal int

const (
	logs signal = iota
	spans
)

var paths = map[string]signal{
	"/v1/logs":   logs,
	"/v1/traces": spans,
	"/opentelemetry.proto.collector.logs.v1.LogsService/Export":   logs,
	"/opentelemetry.proto.collector.trace.v1.TraceService/Export": spans,
}

// What came so far. Bytes are those of the bodies as they came; CPU seconds those of this process.
type counts struct {
	Requests   int     `json:"requests"`
	Logs       int     `json:"logs"`
	Spans      int     `json:"spans"`
	Bytes      int     `json:"bytes"`
	CPUSeconds float64 `json:"cpu_seconds"`
	Last       float64 `json:"last"` // seconds since 1970: when the last request was acknowledged
}

type packed struct {
	signal signal
	body   []byte
}

type sink struct {
	lock    sync.Mutex
	counts  counts
	last    time.Time
	kept    []packed
	keptNow int
	buffers sync.Pool
}

func main() {
	s := &sink{}
	s.buffers.New = func() any { return new(bytes.Buffer) }
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{
		Handler:   s,
		Protocols: protocols,
		// Whole requests fit into the window, so no sender waits for it to be opened again.
		HTTP2: &http.HTTP2Config{
			MaxReadFrameSize:              1 << 20,
			MaxReceiveBufferPerConnection: 64 << 20,
			MaxReceiveBufferPerStream:     16 << 20,
		},
	}
	fmt.Printf("listening on %s\n", listener.Addr())
	log.Fatal(server.Serve(listener))
}

func (s *sink) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/counts" {
		s.answerCounts(w, r)
		return
	}
	signal, known := paths[r.URL.Path]
	if !known {
		http.NotFound(w, r)
		return
	}
	buffer := s.buffers.Get().(*bytes.Buffer)
	defer s.buffers.Put(buffer)
	buffer.Reset()
	if r.ContentLength > 0 {
		buffer.Grow(int(r.ContentLength) + bytes.MinRead)
	}
	if _, err := buffer.ReadFrom(r.Body); err != nil {
		return // the sender went away: it was not acknowledged
	}
	if strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") {
		s.takeGRPC(w, signal, buffer.Bytes())
		return
	}
	s.take(signal, buffer.Bytes(), r.Header.Get("Content-Encoding") == "gzip")
	w.Header().Set("Content-Type", "application/x-protobuf")
	w.Header().Set("Content-Length", "0")
}

// A gRPC message: one byte that says whether it is compressed, four of its length, and the message itself.
func (s *sink) takeGRPC(w http.ResponseWriter, signal signal, body []byte) {
	if len(body) < 5 || int(binary.BigEndian.Uint32(body[1:5])) != len(body)-5 {
		log.Fatal("a gRPC request that is not one whole message")
	}
	s.take(signal, body[5:], body[0] == 1)
	w.Header().Set("Content-Type", "application/grpc")
	w.Header().Set("Trailer", "Grpc-Status")
	w.Write(make([]byte, 5)) // an empty message: ExportLogsServiceResponse{}
	w.Header().Set("Grpc-Status", "0")
}

func (s *sink) take(signal signal, body []byte, isPacked bool) {
	records := 0
	if !isPacked {
		records = recordsIn(body)
	}
	s.lock.Lock()
	defer s.lock.Unlock()
	s.counts.Requests++
	s.counts.Bytes += len(body)
	if isPacked {
		s.kept = append(s.kept, packed{signal, bytes.Clone(body)})
		if s.keptNow += len(body); s.keptNow > mostKeptBytes {
			s.unpackKept()
		}
	}
	s.add(signal, records)
	s.last = time.Now()
}

func (s *sink) add(signal signal, records int) {
	if signal == logs {
		s.counts.Logs += records
	} else {
		s.counts.Spans += records
	}
}

func (s *sink) unpackKept() {
	for _, each := range s.kept {
		reader, err := gzip.NewReader(bytes.NewReader(each.body))
		if err != nil {
			log.Fatal(err)
		}
		body, err := io.ReadAll(reader)
		if err != nil {
			log.Fatal(err)
		}
		s.add(each.signal, recordsIn(body))
	}
	s.kept, s.keptNow = nil, 0
}

func (s *sink) answerCounts(w http.ResponseWriter, r *http.Request) {
	if text := r.URL.Query().Get("quiet"); text != "" {
		seconds, err := strconv.ParseFloat(text, 64)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		wanted, _ := strconv.Atoi(r.URL.Query().Get("logs")) // 0 without it: then no number is waited for
		s.waitUntilQuiet(r.Context(), time.Duration(seconds*float64(time.Second)), wanted)
	}
	s.lock.Lock()
	defer s.lock.Unlock()
	cpu := cpuSeconds() // what unpacking takes now was not taken from anybody
	s.unpackKept()
	answer := s.counts
	answer.CPUSeconds = cpu
	answer.Last = float64(s.last.UnixNano()) / 1e9
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(answer)
}

func (s *sink) waitUntilQuiet(asked context.Context, quiet time.Duration, wanted int) {
	latestFirst := time.Now().Add(longestStart)
	for left := quiet; left > 0 && asked.Err() == nil; {
		time.Sleep(min(left, lookEvery))
		s.lock.Lock()
		switch {
		case wanted > 0 && s.counts.Logs >= wanted:
			left = min(quiet, settle) - time.Since(s.last)
		case s.counts.Requests > 0:
			left = quiet - time.Since(s.last)
		default:
			left = time.Until(latestFirst)
		}
		s.lock.Unlock()
	}
}

func cpuSeconds() float64 {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		log.Fatal(err)
	}
	return float64(usage.Utime.Nano()+usage.Stime.Nano()) / 1e9
}

// The LogRecords or Spans of a request. Both kinds number their fields alike (opentelemetry-proto:
// logs_service.proto, logs.proto, trace_service.proto, trace.proto): resource_* = 1, scope_* = 2, records = 2.
func recordsIn(request []byte) int {
	found, err := count(request, []uint64{1, 2, 2})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	return found
}

var errBroken = errors.New("a request that is no protobuf message")

// How many fields stand at the end of this path of field numbers.
func count(message []byte, path []uint64) (int, error) {
	found := 0
	for len(message) > 0 {
		tag, n := binary.Uvarint(message)
		if n <= 0 {
			return 0, errBroken
		}
		message = message[n:]
		if tag&7 != 2 { // all fields on the way are length-delimited, but for counts and flags beside them
			skipped := skip(message, tag&7)
			if skipped < 0 {
				return 0, errBroken
			}
			message = message[skipped:]
			continue
		}
		length, n := binary.Uvarint(message)
		if n <= 0 || length > uint64(len(message)-n) {
			return 0, errBroken
		}
		field := message[n : n+int(length)]
		message = message[n+int(length):]
		switch {
		case tag>>3 != path[0]:
		case len(path) == 1:
			found++
		default:
			inside, err := count(field, path[1:])
			if err != nil {
				return 0, err
			}
			found += inside
		}
	}
	return found, nil
}

// The bytes of a field's value that is not length-delimited; negative if it is none.
func skip(message []byte, wireType uint64) int {
	switch wireType {
	case 0:
		if _, n := binary.Uvarint(message); n > 0 {
			return n
		}
	case 1:
		if len(message) >= 8 {
			return 8
		}
	case 5:
		if len(message) >= 4 {
			return 4
		}
	}
	return -1
}
