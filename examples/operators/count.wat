;; Counts the records that it is given: says each payload again on `out.seen`, with the count behind
;; it in eight bytes, the lowest first. Its state is the count. Assembled by `arqon wasm push`.
;;
;; A payload that begins with P makes it trap, L makes it compute for ever, and B makes it emit to a
;; topic that its manifest does not name, to see what becomes of such records.
(module
  (memory (export "memory") 4)
  (data (i32.const 16) "out.seen")
  (data (i32.const 32) "evil.top")
  ;; Where the next allocation begins. An instance lives for one record, so nothing is freed.
  (global $free (mut i32) (i32.const 1024))
  ;; Where is read from, and where is written to.
  (global $in (mut i32) (i32.const 0))
  (global $out (mut i32) (i32.const 196608))

  (func (export "arqon_operator") (result i32) (i32.const 1))

  (func (export "arqon_alloc") (param $len i32) (result i32)
    (local $at i32)
    (local.set $at (global.get $free))
    (global.set $free (i32.add (local.get $at) (local.get $len)))
    ;; What is answered stands behind what is given.
    (if (result i32) (i32.gt_u (global.get $free) (i32.const 131072))
      (then (i32.const 0))
      (else (local.get $at))))

  ;; The next number of the input.
  (func $number (result i32)
    (local $value i32) (local $shift i32) (local $byte i32)
    (loop $more
      (local.set $byte (i32.load8_u (global.get $in)))
      (global.set $in (i32.add (global.get $in) (i32.const 1)))
      (local.set $value
        (i32.or (local.get $value)
          (i32.shl (i32.and (local.get $byte) (i32.const 127)) (local.get $shift))))
      (local.set $shift (i32.add (local.get $shift) (i32.const 7)))
      (br_if $more (i32.and (local.get $byte) (i32.const 128))))
    (local.get $value))

  (func $put (param $byte i32)
    (i32.store8 (global.get $out) (local.get $byte))
    (global.set $out (i32.add (global.get $out) (i32.const 1))))

  ;; A length in three bytes.
  (func $put_len (param $len i32)
    (call $put (i32.or (i32.and (local.get $len) (i32.const 127)) (i32.const 128)))
    (call $put
      (i32.or (i32.and (i32.shr_u (local.get $len) (i32.const 7)) (i32.const 127)) (i32.const 128)))
    (call $put (i32.and (i32.shr_u (local.get $len) (i32.const 14)) (i32.const 127))))

  (func $put_8 (param $bytes i64)
    (i64.store (global.get $out) (local.get $bytes))
    (global.set $out (i32.add (global.get $out) (i32.const 8))))

  (func (export "arqon_apply") (param $at i32) (param $len i32) (result i64)
    (local $end i32) (local $tag i32) (local $n i32) (local $first i32) (local $start i32)
    (local $payload i32) (local $payload_len i32) (local $topic i32) (local $count i64)
    (global.set $in (local.get $at))
    (local.set $end (i32.add (local.get $at) (local.get $len)))
    (block $read
      (loop $field
        (br_if $read (i32.ge_u (global.get $in) (local.get $end)))
        (local.set $tag (call $number))
        (local.set $n (call $number))
        ;; A number, like time_ms: it has no bytes behind it.
        (br_if $field (i32.eqz (i32.and (local.get $tag) (i32.const 7))))
        ;; OperatorInput.payload = 6
        (if (i32.eq (local.get $tag) (i32.const 50))
          (then
            (local.set $payload (global.get $in))
            (local.set $payload_len (local.get $n))))
        ;; OperatorInput.state = 10
        (if (i32.eq (local.get $tag) (i32.const 82))
          (then (local.set $count (i64.load (global.get $in)))))
        (global.set $in (i32.add (global.get $in) (local.get $n)))
        (br $field)))
    (local.set $count (i64.add (local.get $count) (i64.const 1)))
    (local.set $topic (i32.const 16))
    (if (local.get $payload_len)
      (then
        (local.set $first (i32.load8_u (local.get $payload)))
        (if (i32.eq (local.get $first) (i32.const 80)) (then unreachable))
        (if (i32.eq (local.get $first) (i32.const 76)) (then (loop $ever (br $ever))))
        (if (i32.eq (local.get $first) (i32.const 66))
          (then (local.set $topic (i32.const 32))))))
    (local.set $start (global.get $out))
    ;; OperatorOutput.emissions = 1
    (call $put (i32.const 10))
    (call $put_len (i32.add (local.get $payload_len) (i32.const 22)))
    ;; OperatorEmission.topic = 1
    (call $put (i32.const 10))
    (call $put (i32.const 8))
    (call $put_8 (i64.load (local.get $topic)))
    ;; OperatorEmission.payload = 5
    (call $put (i32.const 42))
    (call $put_len (i32.add (local.get $payload_len) (i32.const 8)))
    (memory.copy (global.get $out) (local.get $payload) (local.get $payload_len))
    (global.set $out (i32.add (global.get $out) (local.get $payload_len)))
    (call $put_8 (local.get $count))
    ;; OperatorOutput.state = 2
    (call $put (i32.const 18))
    (call $put (i32.const 8))
    (call $put_8 (local.get $count))
    (i64.or
      (i64.shl (i64.extend_i32_u (local.get $start)) (i64.const 32))
      (i64.extend_i32_u (i32.sub (global.get $out) (local.get $start))))))
