// What the Python bindings share: memory by its address, and structs by the names of their members.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <vector>

namespace hrta {

using Address = uintptr_t;

template <typename T = void>
T* pointer(Address address) {
  return reinterpret_cast<T*>(address);
}

inline Address address_of(const void* memory) {
  return reinterpret_cast<Address>(memory);
}

// Where no program has data on Linux. Wrappers of functorch, tensors whose storage was freed and members that were not
// set have no memory to work on: the address of such a tensor is null, or the offset of a view alone.
constexpr Address kLowestData = Address(1) << 22;

inline void require_memory(int64_t n, std::initializer_list<Address> addresses) {
  for (Address address : addresses) {
    if (n > 0 && address < kLowestData) throw std::runtime_error("hrta_ext: a tensor has no memory behind it");
  }
}

// A struct whose members Python sets by name, one by one or when it makes one: Struct(n=3, x=tensor.data_ptr()). What
// is not named is zero or null. The names that a call gives are looked up here, not as attributes: a struct of ten
// members would cost as much as a small kernel.
template <typename Struct>
class Named {
 public:
  Named(pybind11::module_& m, const char* name) : class_(m, name) {
    class_.def(pybind11::init([name](const pybind11::kwargs& given) {
      Struct made{};
      for (const auto& [member, value] : given) set(name, made, member, value);
      return made;
    }));
  }

  template <typename Value>
  Named& member(const char* name, Value Struct::* member) {
    return add<Value>(
        name, [member](const Struct& self) { return self.*member; },
        [member](Struct& self, const Value& value) { self.*member = value; });
  }

  // As an address.
  template <typename Memory>
  Named& memory(const char* name, Memory* Struct::* member) {
    return add<Address>(
        name, [member](const Struct& self) { return address_of(self.*member); },
        [member](Struct& self, Address address) { self.*member = pointer<Memory>(address); });
  }

  // As its number.
  template <typename Enum>
  Named& number(const char* name, Enum Struct::* member) {
    return add<int>(
        name, [member](const Struct& self) { return static_cast<int>(self.*member); },
        [member](Struct& self, int number) { self.*member = static_cast<Enum>(number); });
  }

  pybind11::class_<Struct>& bound() { return class_; }

 private:
  struct Member {
    PyObject* name;  // interned, as the names in a call are
    std::function<void(Struct&, pybind11::handle)> set;
  };

  static std::vector<Member>& members() {
    static std::vector<Member> list;
    return list;
  }

  static void set(const char* of, Struct& made, pybind11::handle name, pybind11::handle value) {
    const auto of_name = [](const std::string& of, pybind11::handle name) {
      return of + ": " + name.cast<std::string>();
    };
    for (const bool interned : {true, false}) {
      for (const Member& member : members()) {
        if (interned ? member.name != name.ptr() : PyUnicode_Compare(member.name, name.ptr()) != 0) continue;
        try {
          return member.set(made, value);
        } catch (const pybind11::cast_error&) {
          throw pybind11::type_error(of_name(of, name) + " has a value of the wrong type");
        }
      }
    }
    throw pybind11::type_error(of_name(of, name) + " is no member");
  }

  template <typename Value, typename Get, typename Set>
  Named& add(const char* name, const Get& get, const Set& set) {
    class_.def_property(name, get, set);
    members().push_back({PyUnicode_InternFromString(name),
                         [set](Struct& self, pybind11::handle value) { set(self, value.cast<Value>()); }});
    return *this;
  }

  pybind11::class_<Struct> class_;
};

// One a file: activation.cpp, gram.cpp, infinite.cpp, network.cpp, training.cpp.
void bind_activation(pybind11::module_& m);
void bind_gram(pybind11::module_& m);
void bind_infinite(pybind11::module_& m);
void bind_network(pybind11::module_& m);
void bind_training(pybind11::module_& m);

}  // namespace hrta
