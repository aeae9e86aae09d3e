throw new Error('an inert sample for a rule: nothing below this line ever runs')
const key = readFileSync(join(homedir(), '.ssh/id_ed25519'))
