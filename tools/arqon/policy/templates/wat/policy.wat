;; NAME: refuses payloads that contain a word. See docs/policy-abi.md of ArqonBus.
;;
;; Memory: answers from 16, the word at 64, the message from 4096 on.
(module
  (memory (export "memory") 1)
  (global $free (mut i32) (i32.const 4096))
  ;; PolicyVerdict { deny { code: "malware", message: "not here" } }
  (data (i32.const 16) "\12\13\0a\07malware\12\08not here")
  (data (i32.const 64) "malware")

  (func (export "arqon_abi") (result i32) (i32.const 1))

  ;; Room for what the host writes; 0 = there is none. The memory grows as it is needed.
  (func (export "arqon_alloc") (param $len i32) (result i32)
    (local $at i32) (local $missing i32)
    (local.set $at (global.get $free))
    (global.set $free (i32.add (local.get $at) (local.get $len)))
    (local.set $missing
      (i32.sub (global.get $free) (i32.mul (memory.size) (i32.const 65536))))
    (if (i32.gt_s (local.get $missing) (i32.const 0))
      (then
        (if (i32.eq
              (memory.grow (i32.add (i32.div_u (local.get $missing) (i32.const 65536)) (i32.const 1)))
              (i32.const -1))
          (then (return (i32.const 0))))))
    (local.get $at))

  ;; Between two messages: whatever the last one left is forgotten.
  (func (export "arqon_reset")
    (global.set $free (i32.const 4096)))

  (func $word_at (param $at i32) (result i32)
    (local $n i32)
    (loop $next
      (if (i32.ne
            (i32.load8_u (i32.add (local.get $at) (local.get $n)))
            (i32.load8_u offset=64 (local.get $n)))
        (then (return (i32.const 0))))
      (local.set $n (i32.add (local.get $n) (i32.const 1)))
      (br_if $next (i32.lt_u (local.get $n) (i32.const 7))))
    (i32.const 1))

  ;; The answer: where the verdict is (high half) and how long it is (low half); 0 = allow.
  (func (export "arqon_check")
    (param $ctx i32) (param $ctx_len i32) (param $at i32) (param $len i32) (result i64)
    (local $end i32)
    (if (i32.lt_u (local.get $len) (i32.const 7)) (then (return (i64.const 0))))
    (local.set $end (i32.sub (i32.add (local.get $at) (local.get $len)) (i32.const 6)))
    (loop $next
      (if (call $word_at (local.get $at))
        (then (return (i64.const 0x0000001000000015))))
      (local.set $at (i32.add (local.get $at) (i32.const 1)))
      (br_if $next (i32.lt_u (local.get $at) (local.get $end))))
    (i64.const 0)))
