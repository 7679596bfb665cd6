//! Words that made-up values are made of. Nobody in particular.

pub const GIVEN: [&str; 64] = [
    "Ada", "Alan", "Alma", "Amir", "Anna", "Arne", "Bela", "Bruno", "Carla", "Cem", "Clara", "Dana", "David", "Dina",
    "Edgar", "Elena", "Emil", "Erik", "Eva", "Felix", "Fiona", "Frida", "Georg", "Greta", "Hanna", "Hugo", "Ida",
    "Igor", "Ines", "Ivan", "Jana", "Jonas", "Julia", "Karim", "Kira", "Lara", "Leo", "Lina", "Luca", "Maja", "Marco",
    "Maria", "Mira", "Nadia", "Nico", "Nora", "Olga", "Omar", "Oskar", "Paula", "Pedro", "Petra", "Rosa", "Samir",
    "Sara", "Simon", "Sofia", "Sven", "Tara", "Tom", "Vera", "Viktor", "Yara", "Zoe",
];

pub const FAMILY: [&str; 64] = [
    "Abel", "Adler", "Albers", "Amsel", "Arndt", "Bachmann", "Baker", "Berger", "Bloom", "Brandt", "Carter", "Castro",
    "Cohen", "Costa", "Dahl", "Duran", "Ebert", "Evans", "Falk", "Fischer", "Ford", "Garcia", "Grant", "Haas",
    "Hansen", "Harper", "Ibsen", "Jansen", "Jones", "Kaya", "Keller", "Khan", "Kovac", "Lang", "Larsen", "Lopez",
    "Marsh", "Mason", "Meyer", "Moreau", "Nagy", "Nielsen", "Novak", "Olsen", "Ortiz", "Parker", "Petrov", "Quinn",
    "Reed", "Rossi", "Sanders", "Santos", "Silva", "Stone", "Sturm", "Tanaka", "Turner", "Urban", "Vogel", "Wagner",
    "Walker", "Weiss", "Winter", "Ziegler",
];

pub const CITY: [&str; 32] = [
    "Alderport",
    "Ashford",
    "Bellhaven",
    "Birkdale",
    "Brookfield",
    "Cedarton",
    "Clearwater",
    "Dunmore",
    "Eastbridge",
    "Elmstead",
    "Fairhaven",
    "Foxley",
    "Glenmore",
    "Greenford",
    "Harwick",
    "Hillcrest",
    "Kingsbury",
    "Lakewood",
    "Larchmont",
    "Mapleton",
    "Millbrook",
    "Newhaven",
    "Northgate",
    "Oakridge",
    "Pinehurst",
    "Riverton",
    "Rosedale",
    "Silverton",
    "Stonefield",
    "Thornbury",
    "Westbrook",
    "Willowdale",
];

pub const STREET: [&str; 32] = [
    "Acorn", "Alder", "Apple", "Ash", "Beech", "Birch", "Bridge", "Cedar", "Cherry", "Church", "Elm", "Fern", "Field",
    "Garden", "Hazel", "Hill", "Holly", "Lake", "Larch", "Linden", "Maple", "Meadow", "Mill", "Oak", "Orchard", "Park",
    "Pine", "River", "Rose", "Station", "Walnut", "Willow",
];

pub const TRADE: [&str; 8] = ["Foods", "Group", "Labs", "Logistics", "Partners", "Systems", "Trading", "Works"];

pub const WORD: [&str; 32] = [
    "amet", "and", "as", "blue", "by", "calm", "day", "far", "field", "for", "from", "garden", "green", "in", "lake",
    "light", "long", "morning", "near", "of", "on", "over", "path", "quiet", "river", "small", "stone", "the", "tree",
    "under", "with", "wind",
];
